from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.embeddings import Embeddings
from kdjax.objectives import dime_fm

WARM = {"image_text_temperature": 100.0, "image_image_temperature": 100.0}


def dime_fm_loss(*sides, **options):
    return dime_fm.dime_fm_loss(*sides, **options).value()


def drawn(seed, rows=5, width=4):
    rng = np.random.default_rng(seed)
    image, text = (jnp.asarray(rng.normal(size=(rows, width)), "float32") for _ in "it")
    return Embeddings(image=image, text=text, logit_scale=jnp.float32(1))


def divergence(p, q):
    return np.sum(p * np.log(p / q))


def test_two_images_among_two_texts():
    """At a temperature of 100 the logits are cosines."""
    eye = jnp.eye(2)
    teacher = Embeddings(image=eye, text=eye, logit_scale=jnp.float32(1))
    student = replace(teacher, image=eye[::-1])
    sure = np.array([np.e, 1]) / (np.e + 1)
    swapped = divergence(sure, sure[::-1])
    for texts, images in ((1.0, 0.0), (0.0, 1.0)):
        weights = {"image_text": texts, "image_image": images}
        found = dime_fm_loss(student, teacher, **WARM, **weights)
        assert float(found) == pytest.approx(2 * swapped, rel=1e-5)


def test_the_weights_and_temperatures_are_those_of_the_paper():
    student, teacher = drawn(0), drawn(1)
    given = {"image_text_temperature": 1.0, "image_image_temperature": 3.0}
    weights = {"image_text": 0.7, "image_image": 0.3}
    expected = dime_fm_loss(student, teacher, **given, **weights)
    assert dime_fm_loss(student, teacher) == expected


def test_the_students_texts_take_no_part():
    student, teacher = drawn(0), drawn(1)
    value, gradient = jax.value_and_grad(dime_fm_loss)(student, teacher)
    assert value == dime_fm_loss(replace(student, text=teacher.text), teacher)
    assert gradient.image.any()
    assert not gradient.text.any()


def test_texts_need_not_belong_to_the_images():
    student, teacher = drawn(0), drawn(1)
    others = replace(teacher, text=teacher.text[jnp.array([2, 0, 4, 1, 3])])
    assert float(dime_fm_loss(student, others)) == pytest.approx(
        float(dime_fm_loss(student, teacher)), rel=1e-5
    )

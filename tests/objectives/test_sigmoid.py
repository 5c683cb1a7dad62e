"""Sigmoid losses against OpenCLIP's, an oracle, and what the published form lacks."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import answers, oracle

from kdjax.objectives.sigmoid import siglip_distill_loss, siglip_loss

LEARNT_BIAS_INIT = -10.0


def golden():
    return answers.golden("contrastive_losses.npz")


def test_the_sigmoid_loss_is_that_of_openclip():
    values, gradients = answers.answers({"siglip": {}}, answers.inputs_of(golden()))
    assert values["siglip"] == pytest.approx(golden()["siglip/value"], rel=1e-5)
    answers.check_gradients(gradients["siglip"], golden(), "siglip")


FORMS = {
    "siglip": ({}, oracle.siglip),
    "soft": ({}, oracle.siglip_distill),
    "warm": (
        {"temperature": 2.5},
        partial(oracle.siglip_distill, temperature=2.5),
    ),
    "mobileclip2": (
        {"form": "mobileclip2"},
        partial(oracle.siglip_distill, mobileclip2=True),
    ),
}
BIASES = {
    "both": {"student_bias": -3.0, "teacher_bias": -2.0},
    "the teacher's": {"teacher_bias": -2.0},
    "neither": {},
}


@cache
def inputs(biases):
    x = oracle.inputs(np.random.default_rng(3), 5, 3, 6)
    return x | {name: np.array(value) for name, value in BIASES[biases].items()}


@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_the_oracle(form, biases):
    options, loss = FORMS[form]
    name = "siglip" if form == "siglip" else "siglip_distill"
    x = inputs(biases)
    values, gradients = answers.answers({name: options}, x)
    assert values[name] == pytest.approx(loss(x), rel=1e-5)
    answers.check_with_oracle(gradients[name], loss, oracle.gradient, x)


def pair(**changes):
    x = answers.as_float32(inputs("both"))
    student, teacher = (answers.embeddings(x, side) for side in ("student", "teacher"))
    return student, replace(teacher, **changes)


def test_a_softmax_teacher_can_be_given_a_bias():
    student, sigmoid = pair()
    softmax = replace(sigmoid, logit_bias=None)
    expected = siglip_distill_loss(student, (sigmoid,))
    found = siglip_distill_loss(student, (softmax,), teacher_bias=-2.0)
    assert found == expected
    assert siglip_distill_loss(student, (softmax,)) != expected


def test_a_calibrated_scale_is_left_alone_for_the_bias_goes_with_the_own():
    student, teacher = pair()
    _, calibrated = pair(calibrated_scale=jnp.float32(3))
    expected = siglip_distill_loss(student, (teacher,))
    assert siglip_distill_loss(student, (calibrated,)) == expected
    other = siglip_distill_loss(student, (calibrated,), teacher_scale="calibrated")
    assert (
        other == siglip_distill_loss(student, (teacher,), teacher_scale=3.0) != expected
    )


def slopes(teacher_bias, form):
    """The slopes along the student's bias where the teacher knows nothing of pairs."""
    student, teacher = pair(logit_scale=jnp.float32(0))
    student = replace(student, logit_scale=jnp.float32(0), logit_bias=jnp.float32(-3))

    def loss(bias):
        return siglip_distill_loss(
            replace(student, logit_bias=bias),
            (teacher,),
            teacher_bias=teacher_bias,
            form=form,
        )

    return float(jax.grad(loss)(jnp.float32(-3)))


def test_the_published_form_teaches_nothing_where_the_teacher_is_undecided():
    """A student that is sure of what its teacher gives even odds is not corrected."""
    assert slopes(0.0, "mobileclip2") == 0
    # Five pairs in a row, each with the slope sigmoid(-3) - 1/2.
    assert slopes(0.0, "soft") == pytest.approx(5 * (1 / (1 + np.e**3) - 0.5), rel=1e-5)


def test_the_published_form_does_not_rest_where_the_teacher_is():
    assert slopes(-3.0, "soft") == pytest.approx(0, abs=1e-6)
    assert abs(slopes(-3.0, "mobileclip2")) > 0.1


def test_the_sum_over_pairs_is_divided_by_the_batch_and_not_by_all_pairs():
    """At scale 0 each of B pairs in a row costs the same, so the loss grows with B."""
    student, _ = pair()
    flat = replace(student, logit_scale=jnp.float32(0), logit_bias=jnp.float32(0))
    assert float(siglip_loss(flat)) == pytest.approx(5 * np.log(2), rel=1e-6)


def test_a_sure_teacher_loses_no_precision():
    """Its 1 - sigmoid is not zero, and a student that doubts it is still told."""
    student, teacher = pair()

    def at(side, bias):
        return replace(side, logit_scale=jnp.float32(0), logit_bias=jnp.float32(bias))

    found = float(siglip_distill_loss(at(student, 60), (at(teacher, 20),)))
    assert found == pytest.approx(5 * 60 * np.exp(-20), rel=1e-4)

"""The VQA model answers each question for itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models import VQAConfig, VQAModel, architecture
from kdjax.models.config import to_dict, vqa_config_from_dict


@pytest.fixture(scope="module", params=[0, 1], ids=["words", "transformer"])
def model(request):
    config = VQAConfig(
        vision=architecture("nano-16").vision,
        vocab_size=40,
        question_length=6,
        question_layers=request.param,
        width=16,
        layers=2,
        num_heads=2,
        num_answers=5,
    )
    return VQAModel(config, rngs=nnx.Rngs(0))


def inputs(questions=3):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    ids = rng.integers(1, 40, (2, questions, 6)).astype(np.int32)
    ids[:, :, 4:] = 0
    return jnp.asarray(images), jnp.asarray(ids)


def test_questions_of_an_image_do_not_see_each_other(model):
    images, ids = inputs()
    together = model(images, ids)
    assert together.shape == (2, 3, 5)
    for number in range(3):
        alone = model(images, ids[:, number : number + 1])
        np.testing.assert_allclose(together[:, number], alone[:, 0], atol=1e-5)


def test_any_token_may_be_the_pad():
    config = VQAConfig(
        vision=architecture("nano-16").vision,
        vocab_size=40,
        pad_id=39,
        question_length=6,
        question_layers=1,
        width=16,
        layers=1,
        num_heads=2,
        num_answers=5,
    )
    model = VQAModel(config, rngs=nnx.Rngs(0))
    images, ids = inputs()
    short = jnp.where(ids == 0, 39, ids)
    also_short = short.at[:, :, 3].set(39)
    assert not np.allclose(model(images, short), model(images, also_short), atol=1e-3)
    longer = jnp.pad(short[:, :, :4], ((0, 0), (0, 0), (0, 2)), constant_values=39)
    np.testing.assert_allclose(model(images, short), model(images, longer), atol=1e-5)
    zeros = short.at[:, :, 0].set(0)  # a word like any other
    assert not np.allclose(model(images, short), model(images, zeros), atol=1e-3)


def test_padding_does_not_change_an_answer(model):
    images, ids = inputs()
    np.testing.assert_allclose(
        model(images, ids)[0], model(images, ids.at[1].set(0))[0], atol=1e-5
    )
    assert np.isfinite(model(images, jnp.zeros_like(ids))).all()


def test_the_image_changes_the_answer(model):
    images, ids = inputs()
    assert abs(model(images, ids) - model(images[::-1], ids)).max() > 1e-3


def test_held_tokens_give_the_same_answers(model):
    images, ids = inputs()
    tokens = model.vision(images).all_tokens
    assert tokens.shape == (2, 17, 16)
    np.testing.assert_array_equal(model.answer(tokens, ids), model(images, ids))


def test_a_config_that_is_older_than_the_rules_of_resizing_is_read(model):
    written = to_dict(model.config)
    for key in ("interpolation", "resize"):
        del written["vision"][key]
    assert vqa_config_from_dict(written) == model.config

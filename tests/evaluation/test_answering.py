"""Answers are those of the largest logit, by question id, where a question is."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import VISION, drawn, images, normalised

from kdjax.evaluation.answering import answer_questions, image_tokens
from kdjax.models import VQAConfig, VQAModel

CONFIG = VQAConfig(
    vision=VISION,
    vocab_size=20,
    question_length=4,
    question_layers=0,
    width=8,
    layers=1,
    num_heads=2,
    num_answers=5,
)
ANSWERS = ["no", "yes", "red", "two", "circle"]


@pytest.fixture(scope="module")
def model():
    return drawn(lambda: VQAModel(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def params(model):
    return nnx.to_pure_dict(nnx.state(model))


def batch(seed):
    """Three images with up to four questions, whose ids are in no order."""
    rng = np.random.default_rng(seed)
    mask = rng.permutation(12).reshape(3, 4) < 9
    ids = 100 * seed + rng.permutation(12).reshape(3, 4)
    return {
        "image": images(rng, 3),
        "question": rng.integers(1, 20, (3, 4, 4)).astype(np.int32),
        "question_id": np.where(mask, ids, -1).astype(np.int32),
        "mask": mask,
    }


def test_answers_follow_the_largest_logit_by_question_id(model, params):
    batches = [batch(1), batch(2)]
    said = answer_questions(params, CONFIG, iter(batches), ANSWERS)
    ask = nnx.jit(lambda model, images, questions: model(images, questions))
    expected = {}
    for asked in batches:
        pixels = normalised(asked["image"])
        logits = np.asarray(ask(model, pixels, jnp.asarray(asked["question"])))
        for place in np.argwhere(asked["mask"]):
            question_id = int(asked["question_id"][tuple(place)])
            expected[question_id] = ANSWERS[int(logits[tuple(place)].argmax())]
    assert said == expected
    assert len(said) == 18
    assert len(set(said.values())) > 1


def test_nothing_asked_is_nothing_said(params):
    assert answer_questions(params, CONFIG, [], ANSWERS) == {}
    nothing = batch(1) | {"mask": np.zeros((3, 4), bool)}
    assert answer_questions(params, CONFIG, [nothing], ANSWERS) == {}


def test_held_tokens_are_those_of_the_tower(model, params):
    raw = batch(1)["image"]
    found = image_tokens(params["vision"], raw, config=CONFIG)
    expected = nnx.jit(lambda tower, x: tower(x).all_tokens)(
        model.vision, normalised(raw)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)

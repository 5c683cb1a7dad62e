import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import oracle

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import clip_loss

SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def rows(seed, width=6):
    return np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32)


@few
@given(seed=SEEDS, scale=st.floats(0.1, 50))
def test_the_task_loss_is_that_of_the_oracle(seed, scale):
    x = {
        "student_image": rows(seed),
        "student_text": rows(seed // 2 + 1),
        "student_scale": np.float32(scale),
    }
    student = Embeddings(
        image=jnp.asarray(x["student_image"]),
        text=jnp.asarray(x["student_text"]),
        logit_scale=jnp.float32(scale),
    )
    expected = oracle.clip({name: array.astype(float) for name, array in x.items()})
    assert float(clip_loss(student).value()) == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )


def test_the_two_modalities_count_alike():
    image, text = jnp.asarray(rows(0)), jnp.asarray(rows(1))
    there = Embeddings(image=image, text=text, logit_scale=jnp.float32(10))
    back = Embeddings(image=text, text=image, logit_scale=jnp.float32(10))
    assert float(clip_loss(there).value()) == pytest.approx(
        float(clip_loss(back).value()), rel=1e-6
    )


def test_matched_pairs_at_a_sharp_scale_cost_nothing():
    eye = Embeddings(image=jnp.eye(4), text=jnp.eye(4), logit_scale=jnp.float32(100))
    assert float(clip_loss(eye).value()) == pytest.approx(0, abs=1e-6)

"""What a task loses, and what of it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models import VQAConfig, architecture
from kdjax.training.tasks import VQATask

MODEL = VQAConfig(
    vision=architecture("nano-16").vision,
    vocab_size=40,
    question_length=6,
    question_layers=0,
    width=16,
    layers=1,
    num_heads=2,
    num_answers=5,
)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8),
        "question": rng.integers(1, 40, (2, 3, 6)).astype(np.int32),
        "target": rng.uniform(size=(2, 3, 5)).astype(np.float32),
        "mask": np.ones((2, 3), bool),
    }
    return jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_gets_no_gradient(batch, frozen):
    task = VQATask(MODEL, frozen_tower=frozen)
    graph, params = nnx.split(task.init(nnx.Rngs(0)))

    def loss(params):
        return task.loss(nnx.merge(graph, params), None, batch)[0]

    gradients = jax.grad(loss)(params)["model"]
    vision = jax.tree.leaves(gradients["vision"])
    assert any(abs(g).max() > 0 for g in vision) != frozen
    assert all(abs(g).max() > 0 for g in jax.tree.leaves(gradients["head"]))

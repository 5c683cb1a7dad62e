"""What a task loses, and what of it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models import VQAConfig, architecture
from kdjax.training.optimizer import OptimizerConfig, stop_frozen
from kdjax.training.tasks import ContrastiveTask, VQATask

CLIP = architecture("nano-16")
MODEL = VQAConfig(
    vision=CLIP.vision,
    vocab_size=40,
    question_length=6,
    question_layers=0,
    width=16,
    layers=1,
    num_heads=2,
    num_answers=5,
)
TASKS = {
    "clip": ContrastiveTask(CLIP, None, (("clip", (("weight", 1.0),)),)),
    "vqa": VQATask(MODEL),
}
OPTIMIZER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup": 0.1,
    "b2": 0.98,
    "clip_norm": 1.0,
}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8),
        "text": {"student": rng.integers(1, 40, (2, 6)).astype(np.int32)},
        "question": rng.integers(1, 40, (2, 3, 6)).astype(np.int32),
        "target": rng.uniform(size=(2, 3, 5)).astype(np.float32),
        "mask": np.ones((2, 3), bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def gradient_of(task, batch, **rates):
    """The compiled gradient of the model's parameters, and those."""
    config = OptimizerConfig(**OPTIMIZER, **rates)
    graph, state = nnx.split(task.init(nnx.Rngs(0)))
    params = nnx.to_pure_dict(state)

    def loss(params):
        model = nnx.merge(graph, stop_frozen(params, config))
        return task.loss(model, None, batch)[0]

    return jax.jit(jax.grad(loss)).lower(params).compile(), params


@pytest.mark.parametrize(
    ("task", "rates", "frozen"),
    [
        ("clip", {"text_rate": 0.0}, {"text", "text_projection"}),
        ("clip", {"vision_rate": 0.0}, {"vision"}),
        ("vqa", {"vision_rate": 0.0}, {"vision"}),
    ],
)
def test_a_frozen_tower_gets_no_gradient_and_none_is_computed(
    batch, task, rates, frozen
):
    learning, params = gradient_of(TASKS[task], batch)
    stopped, _ = gradient_of(TASKS[task], batch, **rates)
    for compiled, still in ((learning, set()), (stopped, frozen)):
        for part, gradients in compiled(params)["model"].items():
            moves = any(abs(g).max() > 0 for g in jax.tree.leaves(gradients))
            assert moves == (part not in still), part
    fewer, all_of_them = (c.cost_analysis()["flops"] for c in (stopped, learning))
    assert fewer < 0.95 * all_of_them

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models import CLIP, architecture
from kdjax.objectives import expand
from kdjax.training.microbatches import in_parts
from kdjax.training.tasks import ContrastiveTask

CONFIG = architecture("nano-16")
BATCH = 12


def test_parts_of_rows_are_put_together_in_their_order():
    rows = {"a": jnp.arange(12.0).reshape(6, 2), "b": jnp.arange(6)}

    def see(part):
        assert len(part["a"]) == 2
        return part["a"] * part["b"][:, None], jnp.float32(3)

    found, scalar = in_parts(see, rows, 2)
    np.testing.assert_array_equal(found, rows["a"] * rows["b"][:, None])
    assert float(scalar) == 3


@pytest.mark.parametrize("size", [0, 6])
def test_all_at_once_is_one_part(size):
    seen = []

    def see(part):
        seen.append(len(part))
        return part

    in_parts(see, jnp.ones((6, 1)), size)
    assert seen == [6]


def task_of(spec, microbatch, config=CONFIG):
    objectives = tuple((k, tuple(sorted(v.items()))) for k, v in expand(spec).items())
    teacher = replace(config, embed_dim=12)
    return ContrastiveTask(config, (teacher,), objectives, microbatch)


def batch_of(size):
    rng = np.random.default_rng(0)
    side = CONFIG.vision.image_size
    ids = jnp.asarray(rng.integers(1, 50, (size, 8)), jnp.int32)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, side, side, 3)), jnp.uint8),
        "text": {"student": ids, "teacher_0": ids[:, ::-1]},
        "bits": jnp.asarray(rng.integers(0, 2**32, size, dtype=np.uint32)),
    }


SPEC = {
    "clip": {"duplicates": "mask"},
    "crd": {},
    "fd": {},
    "mfd": {},
    "icl": {},
    "tokens": {},
    "hidden": {},
    "attention": {},
}


def gradient_of(task):
    trained = task.init(nnx.Rngs(0))
    teacher = nnx.to_pure_dict(nnx.state(CLIP(task.teachers[0], rngs=nnx.Rngs(1))))
    graph, state = nnx.split(trained)

    def loss(state, batch):
        return task.loss(nnx.merge(graph, state), (teacher,), batch, jnp.float32(0))

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), state


def test_the_size_of_parts_changes_neither_the_loss_nor_its_gradient():
    batch = batch_of(BATCH)
    answers = []
    for microbatch in (0, 4):
        gradient, state = gradient_of(task_of(SPEC, microbatch))
        answers.append(gradient(state, batch))
    whole, parts = (jax.tree.map(np.asarray, answer) for answer in answers)
    assert parts[0][0] == pytest.approx(whole[0][0], rel=1e-5)
    terms, expected = (
        {k: float(x) for k, x in y[0][1].items()} for y in (parts, whole)
    )
    assert terms == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (parts[1], whole[1])), strict=True):
        far = np.linalg.norm(ours - theirs)
        # Some gradients, such as those of biases of keys, are nothing but rounding.
        assert far <= 1e-5 * max(np.linalg.norm(theirs), 1e-2)


def test_a_part_of_the_batch_needs_a_part_of_the_memory():
    sizes = {}
    for microbatch in (0, 8):
        gradient, state = gradient_of(task_of({"clip": {}}, microbatch))
        compiled = gradient.lower(state, batch_of(64)).compile()
        sizes[microbatch] = compiled.memory_analysis().temp_size_in_bytes
    assert sizes[8] < sizes[0] / 4


def test_of_layers_that_are_not_compared_nothing_is_kept():
    deep = replace(CONFIG, vision=replace(CONFIG.vision, layers=16))
    sizes = {}
    for layers in ("-1:-1", "even"):
        task = task_of({"attention": {"layers": layers}}, 8, deep)
        gradient, state = gradient_of(task)
        compiled = gradient.lower(state, batch_of(128)).compile()
        sizes[layers] = compiled.memory_analysis().temp_size_in_bytes
    assert sizes["-1:-1"] < sizes["even"] / 2

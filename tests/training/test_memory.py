"""A step that does not fit, for real: the allocator of the CPU refuses it."""

import re
from dataclasses import dataclass, replace
from functools import partial

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from training.little import LOOP, MESH, OPTIMIZER, Fit, Line, fit

from kdjax.errors import UserError
from kdjax.parallel import to_global
from kdjax.training import memory
from kdjax.training.loop import train
from kdjax.training.microbatches import in_parts
from kdjax.training.steps import build_program

ROWS, TIB = 16, 2**40
# With it a batch needs more than the 128 TiB that a process can address.
SIDE = 1_600_000


@dataclass(frozen=True)
class Greedy:
    """Each row takes `side` squared numbers that no compiler can do without."""

    side: int
    microbatch: int = 0

    def init(self, rngs):
        return Line(rngs)

    def loss(self, trained, frozen, batch, progress):
        along = jnp.arange(self.side, dtype=jnp.float32)

        def see(rows):
            x = trained.model(rows["x"])
            table = jax.lax.stop_gradient(x)[:, :, None] * along[:, None] + along
            # Sorted along one axis and then along the other, so it is there whole.
            return x + jnp.sort(jnp.sort(jnp.sin(table), axis=1), axis=2)[:, 0, :1]

        return in_parts(see, {"x": batch["x"]}, self.microbatch).mean(), {}


def batches():
    x = np.linspace(0, 1, ROWS, dtype=np.float32)[:, None]
    return iter(grain.MapDataset.range(9).map(lambda k: {"x": x}).to_iter_dataset())


def test_what_would_fit_is_named_when_memory_is_short(tmp_path, monkeypatch):
    """The step really fails; what the device has is made up, for a CPU has less."""
    monkeypatch.setattr(memory, "device_limit", lambda device: 50 * TIB)
    program = build_program(Greedy(SIDE), OPTIMIZER, MESH)
    with pytest.raises(UserError) as told:
        train(program, LOOP, batches=batches(), workdir=epath.Path(tmp_path))
    said = re.fullmatch(
        r"the step needs ([\d.]+) GiB on each device \(0.0 of arguments, ([\d.]+) "
        r"temporary, 0.0 of outputs\), and a device has 51200.0 GiB for this and all "
        r"else: set microbatch to (\d+), with which it needs ([\d.]+) GiB",
        str(told.value),
    )
    needed, temporary, microbatch, left = map(float, said.groups())
    assert needed == temporary > 128 * 1024
    assert microbatch == 4
    assert left == pytest.approx(needed / 4, rel=0.1) and left < 51200
    inputs = (program.init(0, 8), None, to_global(next(batches()), MESH))
    found = memory.step_memory(program, *inputs)
    assert found.total / 2**30 == pytest.approx(needed, abs=0.1)
    alone = memory.advice(program, inputs, found, found.arguments - 1)
    assert alone.endswith("smaller, or at least 2 devices and mesh.fsdp 2")


@dataclass(frozen=True)
class Huge(Fit):
    """A line of more numbers than a process can address."""

    def init(self, rngs):
        line = Line(rngs)
        line.model = nnx.Linear(1 << 24, 1 << 24, use_bias=False, rngs=rngs)
        return line


def test_a_state_that_is_too_large_is_told_apart(monkeypatch):
    """Told of the error that the allocator raises; the state itself is not made."""
    monkeypatch.setattr(memory, "device_limit", lambda device: 100 * TIB)
    program = build_program(Huge(), OPTIMIZER, MESH)
    # Kernel and two moments, in float32.
    assert memory.state_memory(program) == pytest.approx(3 * 4 * 2**48)
    with (
        pytest.raises(
            UserError, match=r"the state .* takes 3145728.0 GiB .* mesh.fsdp 31$"
        ),
        memory.memory_explained(partial(memory.about_state, program)),
    ):
        said = "RESOURCE_EXHAUSTED: Out of memory allocating 1125899906842624 bytes."
        raise jax.errors.JaxRuntimeError(said)


def test_what_is_something_else_goes_through():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        memory.memory_explained(memory.about_evaluation),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@pytest.mark.parametrize(
    ("microbatch", "sizes"), [(0, [8, 4, 2, 1]), (8, [4, 2, 1]), (1, [])]
)
def test_sizes_to_try_divide_the_batch_and_halve(microbatch, sizes):
    program = build_program(Greedy(8, microbatch), OPTIMIZER, MESH)
    assert memory.smaller_microbatches(program, ROWS) == sizes


def test_a_task_without_microbatch_has_none_to_try():
    program = build_program(Fit(), OPTIMIZER, MESH)
    assert memory.smaller_microbatches(program, ROWS) == []


def test_an_evaluation_that_does_not_fit_says_so(tmp_path):
    """With the allocator's own error, of an array that no process can address."""

    def evaluate(state):
        shape = (1 << 24, 1 << 24)
        return {"sum": float(jnp.sort(jnp.ones(shape) * state.step)[0, 0])}

    loop = replace(LOOP, evaluate_every=1)
    with pytest.raises(
        UserError,
        match=r"evaluation does not fit .*every_steps to 0 and checkpoint.best to ''",
    ):
        fit(tmp_path, loop, evaluate=evaluate)

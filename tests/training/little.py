"""The smallest run: a line through a few numbers, which compiles in no time."""

from dataclasses import dataclass

import grain
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from kdjax.parallel import host_rows, make_mesh
from kdjax.training.loop import LoopConfig, train
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.steps import build_program

ROWS = 4
MESH = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
OPTIMIZER = OptimizerConfig(
    learning_rate=0.1, weight_decay=0.1, warmup=0.1, b2=0.98, clip_norm=1.0
)
LOOP = LoopConfig(
    seed=0, steps=8, log_every=3, checkpoint_every=2, keep=10, max_nonfinite=3
)


class Line(nnx.Module):
    """Slope and intercept."""

    def __init__(self, rngs):
        self.model = nnx.Linear(1, 1, rngs=rngs)


@dataclass(frozen=True)
class Fit:
    """Fit a line; a batch that has one of the bad records has no finite loss."""

    bad: tuple[int, ...] = ()

    def init(self, rngs):
        return Line(rngs)

    def loss(self, trained, frozen, batch, progress):
        x = batch["index"][:, None].astype(jnp.float32)
        loss = jnp.mean((trained.model(x / 100) - 3 * x / 100 - 1) ** 2)
        poisoned = jnp.isin(batch["index"], jnp.array(self.bad, jnp.int32)).any()
        return jnp.where(poisoned, jnp.inf, loss), {}


def records(step):
    """The record ids of a step's batch, counted from one."""
    return list(range(ROWS * (step - 1), ROWS * step))


def batches():
    rows = host_rows(ROWS, MESH)

    def batch(k):
        return {"index": np.array(records(k + 1), np.int32)[rows]}

    return iter(grain.MapDataset.range(1000).map(batch).to_iter_dataset())


def fit(workdir, loop=LOOP, bad=(), **given):
    """Train; return the final state, whole on the host."""
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    program = build_program(Fit(tuple(bad)), OPTIMIZER, MESH)
    done = train(program, loop, batches=batches(), workdir=workdir, **given)
    return jax.device_get(done.state)


def assert_equal(a, b):
    """Assert that trees are equal, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)

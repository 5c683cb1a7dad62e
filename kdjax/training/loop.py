"""The training loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from kdjax.errors import UserError
from kdjax.models import Params
from kdjax.parallel import to_global
from kdjax.training.checkpoints import Checkpoints
from kdjax.training.interrupt import Interrupted, stop_flag
from kdjax.training.metrics import MetricsWriter, Watch
from kdjax.training.steps import Program, TrainState
from kdjax.training.tasks import Frozen

Progress = Callable[[int, int, float | None], None]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train and how often to write.

    Attributes:
        seed: of the initial parameters.
        steps: updates in all.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints; the last step always has one.
        keep: newest checkpoints kept.
    """

    seed: int
    steps: int
    log_every: int
    checkpoint_every: int
    keep: int = 2


def train(
    program: Program,
    config: LoopConfig,
    *,
    batches: Iterator[Any],
    mesh: Mesh,
    workdir: epath.Path,
    frozen: Frozen = None,
    warm_start: Callable[[Params], Params] = lambda params: params,
    progress: Progress = lambda step, steps, loss: None,
    watch: Watch = lambda step, metrics: None,
) -> tuple[TrainState, float]:
    """Train from the newest checkpoint, or from the start, to the last step.

    Args:
        program: the compiled functions.
        config: how long, and how often to write.
        batches: a Grain iterator; its state goes into the checkpoints.
        mesh: that the program was built for.
        workdir: where metrics and checkpoints go.
        frozen: what the task takes beside what it trains.
        warm_start: puts given weights into freshly initialised parameters.
        progress: told (step, steps, loss) after every logged step.
        watch: told (step, metrics) then too.

    Returns:
        The final state and the seconds of training, those before a resume included.

    Raises:
        UserError: the loss is not finite.
        Interrupted: a signal asked to stop; a checkpoint of the last step is saved.
    """
    started = time.monotonic()
    checkpoints = Checkpoints(workdir, config.keep)
    state = program.init(config.seed, config.steps)
    state = state.begin_at(warm_start(state.params))
    state = jax.device_put(state, program.shardings)
    state = checkpoints.restore(state, program.shardings, batches)
    # A run may go on for longer than it was begun for.
    state = replace(
        state, steps=jax.device_put(jnp.int32(config.steps), program.shardings.steps)
    )
    first = int(state.step)
    metrics = MetricsWriter(workdir, first, started)
    try:
        with stop_flag() as flag:
            for step in range(first + 1, config.steps + 1):
                batch = to_global(next(batches), mesh)
                state, values = program.step(state, frozen, batch)
                asked = flag.stops_at(step)
                last = step == config.steps or asked is not None
                logged = last or step % config.log_every == 0
                saved = last or step % config.checkpoint_every == 0
                if logged or saved:
                    numbers = {k: float(x) for k, x in jax.device_get(values).items()}
                    _check_finite(step, numbers["loss"])
                if logged:
                    metrics.write(step, numbers)
                    progress(step, config.steps, numbers["loss"])
                    watch(step, numbers)
                if saved:
                    metrics.flush()
                    checkpoints.save(state, batches)
                if asked is not None:
                    raise Interrupted(asked)
    finally:
        metrics.close()
        checkpoints.close()
    return state, metrics.seconds


def _check_finite(step: int, loss: float) -> None:
    if loss != loss or abs(loss) == float("inf"):
        raise UserError(
            f"the loss is {loss} at step {step}: lower optimizer.learning_rate, or "
            "start again from an earlier checkpoint of the workdir"
        )

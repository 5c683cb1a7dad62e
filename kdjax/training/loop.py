"""The training loop."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from kdjax.models import Params
from kdjax.parallel import replicated, to_global
from kdjax.training.checkpoints import Checkpoints
from kdjax.training.interrupt import Interrupted, stop_flag
from kdjax.training.journal import Journal, Step
from kdjax.training.memory import evaluation_explained, memory_explained
from kdjax.training.metrics import Watch
from kdjax.training.profile import Trace
from kdjax.training.steps import Program, TrainState
from kdjax.training.stopwatch import Stopwatch
from kdjax.training.tasks import Batch, Frozen

Evaluate = Callable[[TrainState], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train and what to do between steps.

    Attributes:
        seed: of the initial parameters.
        steps: updates in all.
        log_every: steps between lines of metrics.
        checkpoint_every: steps between checkpoints; the last step always has one.
        keep: newest checkpoints kept.
        evaluate_every: steps between evaluations; the last step has one too. 0 for
            none.
        max_nonfinite: skipped steps in a row with which training stops.
        profile: the first and the last step of a trace; () for none.
    """

    seed: int
    steps: int
    log_every: int
    checkpoint_every: int
    keep: int = 2
    evaluate_every: int = 0
    max_nonfinite: int = 10
    profile: tuple[int, ...] = ()

    def evaluated(self, step: int) -> bool:
        """Return whether there is an evaluation after a step."""
        due = self.evaluate_every and step % self.evaluate_every == 0
        return bool(due or (self.evaluate_every and step == self.steps))

    def logged(self, step: int) -> bool:
        """Return whether a step has a line of metrics."""
        due = step == self.steps or step % self.log_every == 0
        return due or self.evaluated(step)

    def saved(self, step: int) -> bool:
        """Return whether there is a checkpoint after a step."""
        return step == self.steps or step % self.checkpoint_every == 0


def train(
    program: Program,
    config: LoopConfig,
    *,
    batches: Iterator[Any],
    workdir: epath.Path,
    frozen: Frozen = None,
    warm_start: Callable[[Params], Params] = lambda params: params,
    evaluate: Evaluate = lambda state: {},
    watch: Sequence[Watch] = (),
) -> tuple[TrainState, float]:
    """Train from the newest checkpoint, or from the start, to the last step.

    The host only begins steps; it looks at what they say when they are over, and waits
    for them where something is evaluated or saved.

    Args:
        program: the compiled functions.
        config: how long, and what to do between steps.
        batches: a Grain iterator; its state goes into the checkpoints.
        workdir: where metrics and checkpoints go.
        frozen: what the task takes beside what it trains.
        warm_start: puts given weights into freshly initialised parameters.
        evaluate: scores a state; it does not change it.
        watch: told (step, numbers) of every step as it ends; only of a logged one there
            are numbers.

    Returns:
        The final state and the seconds of training, those before a resume included.

    Raises:
        UserError: too many steps in a row are not finite, or memory is short.
        Interrupted: a signal asked to stop; a checkpoint of the last step is saved.
    """
    started, mesh = time.monotonic(), program.mesh
    checkpoints = Checkpoints(workdir, config.keep)
    state = _begin(program, config, warm_start)
    state = checkpoints.restore(state, program.shardings, batches)
    # A run may go on for longer than it was begun for.
    steps = jax.device_put(jnp.int32(config.steps), program.shardings.steps)
    state, frozen = replace(state, steps=steps), _on_mesh(frozen, mesh)
    batch: Batch = {}
    done = int(state.step)
    journal = Journal(program, workdir, done, started, watch, config.max_nonfinite)
    trace, clock = Trace(workdir / "profile", config.profile), journal.clock
    with (
        memory_explained(program, lambda: (state, frozen, batch)),
        closing(checkpoints),
        closing(journal),
        closing(trace),
        stop_flag() as flag,
    ):
        for step in range(done + 1, config.steps + 1):
            trace.before(step)
            with clock.measure("data"):
                batch = to_global(next(batches), mesh)
            with clock.measure("step"), jax.transfer_guard("disallow"):
                state, values = program.step(state, frozen, batch)
            asked = flag.stops_at(step)
            stopping = asked is not None
            scores: Mapping[str, float] = {}
            if config.evaluated(step):
                scores = _scores(evaluate, state, clock)
            logged = stopping or config.logged(step)
            journal.add(Step(step, values, batch, logged, scores))
            saved = stopping or config.saved(step)
            if saved or trace.ends_with(step):
                journal.settle()
                trace.after(step)
            if saved:
                with clock.measure("checkpoint"):
                    checkpoints.save(state, batches)
            if asked is not None:
                raise Interrupted(asked)
    return state, journal.seconds


def _begin(
    program: Program, config: LoopConfig, warm_start: Callable[[Params], Params]
) -> TrainState:
    """Return the state before the first step."""
    with memory_explained(program):
        state = program.init(config.seed, config.steps)
        state = state.begin_at(warm_start(state.params))
        return jax.device_put(state, program.shardings)


def _on_mesh(frozen: Frozen, mesh: Mesh) -> Frozen:
    """Return arrays that steps take as they are, with none still to be copied."""

    def put(x: Any) -> jax.Array:
        placed = isinstance(x, jax.Array) and x.committed
        return x if placed else jax.device_put(x, replicated(mesh))

    return jax.tree.map(put, frozen)


def _scores(
    evaluate: Evaluate, state: TrainState, clock: Stopwatch
) -> Mapping[str, float]:
    """Return what evaluators say, when the step before is over."""
    with clock.measure("step"):
        jax.block_until_ready(state)
    with clock.measure("evaluation"), evaluation_explained():
        return evaluate(state)

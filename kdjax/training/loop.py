"""The training loop."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from kdjax.errors import UserError
from kdjax.models import Params
from kdjax.parallel import to_global
from kdjax.training.checkpoints import Checkpoints, Record, Say
from kdjax.training.choosing import Alarm, Best, Choice
from kdjax.training.interrupt import Interrupted, stop_flag
from kdjax.training.journal import Journal, Step
from kdjax.training.memory import (
    about_evaluation,
    about_state,
    about_step,
    memory_explained,
)
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
        checkpoint_minutes: after which a logged step has one anyway; 0 for never.
        keep: newest checkpoints kept.
        best: by what a step is chosen that is kept and returned in the end; None for
            the last one.
        evaluate_every: steps between evaluations; the last step has one too. 0 for
            none.
        max_nonfinite: skipped steps in a row with which training stops.
        profile: the first and the last step of a trace; () for none.
    """

    seed: int
    steps: int
    log_every: int
    checkpoint_every: int
    checkpoint_minutes: float = 0.0
    keep: int = 2
    best: Choice | None = None
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


class Trained(NamedTuple):
    """What training ends with.

    Attributes:
        state: after the best step where one is asked for, else after the last one.
        seconds: of training, those before a resume included.
        ends: the scores of the best step and of the last one, where one is asked for.
    """

    state: TrainState
    seconds: float
    ends: Mapping[str, Any]


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
    say: Say = lambda line: None,
) -> Trained:
    """Train from the newest checkpoint, or from the start, to the last step.

    The host only begins steps; it looks at what they say when they are over, and waits
    for them where something is evaluated or saved.

    Args:
        program: the compiled functions.
        config: how long, and what to do between steps.
        batches: a Grain iterator; its state goes into the checkpoints.
        workdir: where metrics and checkpoints go.
        frozen: what the task takes beside what it trains, where the step wants it.
        warm_start: puts given weights into freshly initialised parameters.
        evaluate: scores a state; it does not change it.
        watch: told (step, numbers) of every step as it ends; only of a logged one there
            are numbers.
        say: told of checkpoints that are damaged.

    Raises:
        UserError: too many steps in a row are not finite, memory is short, all
            checkpoints are damaged, or there is no score to choose the best step by.
        Interrupted: a signal asked to stop; a checkpoint of the last step is saved.
    """
    with (
        ExitStack() as signals,  # none cuts what is saved at the end, nor is lost then
        closing(Checkpoints(workdir, config.keep, say)) as checkpoints,
    ):
        with memory_explained(partial(about_state, program)):
            state, record = _begin(program, config, checkpoints, batches, warm_start)
        step, started = int(state.step), time.monotonic() - record.seconds
        run = _Run(
            program,
            config,
            checkpoints,
            Journal(program, workdir, step, started, watch, config.max_nonfinite),
            Trace(workdir / "profile", config.profile),
            Alarm(config.checkpoint_minutes),
            batches,
            frozen,
            state,
            record.best,
        )
        with (
            memory_explained(partial(about_step, program, run.inputs)),
            closing(run.journal),
            closing(run.trace),
        ):
            scores = _all_steps(run, evaluate, signals)
            last = Trained(run.state, run.journal.seconds, {})
            if config.best is None or run.best is None:
                return last
            clock = run.journal.clock
            scores = scores or _scores(evaluate, run.state, clock, config.steps)
            return _at_best(program, config.best, checkpoints, last, run.best, scores)


@dataclass
class _Run:
    """A run between two steps.

    Attributes:
        program: of compiled functions.
        config: what to do between steps.
        checkpoints: of the run.
        journal: of its steps.
        trace: of some of them.
        alarm: that rings when a checkpoint is due by the clock.
        batches: that are left.
        frozen: what a step takes as it is.
        state: after the last step that was begun.
        best: step so far.
        batch: of the last step.
    """

    program: Program
    config: LoopConfig
    checkpoints: Checkpoints
    journal: Journal
    trace: Trace
    alarm: Alarm
    batches: Iterator[Any]
    frozen: Frozen
    state: TrainState
    best: Best | None
    batch: Batch = field(default_factory=dict)

    def inputs(self) -> tuple[TrainState, Frozen, Batch]:
        """Return what the last step was given; no batch if there was none."""
        return self.state, self.frozen, self.batch

    def begin(self, step: int) -> Mapping[str, Any]:
        """Begin a step, and return what it will tell."""
        self.trace.before(step)
        measure = self.journal.clock.measure
        with jax.profiler.StepTraceAnnotation("step", step_num=step):
            with measure("data", step):
                self.batch = to_global(next(self.batches), self.program.mesh)
            with measure("step", step), jax.transfer_guard("disallow"):
                inputs = self.state, self.frozen, self.batch
                self.state, values = self.program.step(*inputs)
        return values

    def score(self, step: int, evaluate: Evaluate) -> Mapping[str, float]:
        """Return what evaluators say after a step, and remember the best one."""
        if not self.config.evaluated(step):
            return {}
        self.journal.catch_up()  # so that what is waited for next is of this step
        scores = _scores(evaluate, self.state, self.journal.clock, step)
        if self.config.best:
            self.best = self.config.best.after(step, scores, self.best)
        return scores

    def saves(self, step: int) -> bool:
        """Return whether a step has a checkpoint; all hosts ask."""
        better = self.best is not None and self.best.step == step
        # Lines of metrics are when all hosts may ask each other for the time.
        rings = self.config.logged(step) and self.alarm.rings()
        return better or rings or self.config.saved(step)

    def save(self, step: int) -> None:
        """Begin to save what is after the last step, when that is told of."""
        record = Record(self.config.seed, self.journal.seconds, self.best)
        with self.journal.clock.measure("checkpoint", step + 1):
            self.checkpoints.save(self.state, self.batches, record)
        self.alarm.set()


def _all_steps(
    run: _Run, evaluate: Evaluate, signals: ExitStack
) -> Mapping[str, float]:
    """Make the steps that are left, and return the scores of the last one.

    Args:
        run: that is left where it is when it ends, however it does.
        evaluate: scores a state.
        signals: gets what keeps them from ending more than the loop.
    """
    flag, last = None, run.config.steps
    scores: Mapping[str, float] = {}
    for step in range(int(run.state.step) + 1, last + 1):
        values = run.begin(step)
        # While the first step compiles there is nothing to save.
        flag = flag or signals.enter_context(stop_flag())
        scores = run.score(step, evaluate)
        asked = flag.asked()
        logged = run.config.logged(step)
        run.journal.add(Step(step, values, run.batch, logged, scores))
        saved = asked is not None or run.saves(step)
        if saved or run.trace.ends_with(step):
            run.journal.settle()
            run.trace.after(step)
        if saved:
            run.save(step)
        if asked is not None:
            raise Interrupted(asked)
    return scores


def _begin(
    program: Program,
    config: LoopConfig,
    checkpoints: Checkpoints,
    batches: Iterator[Any],
    warm_start: Callable[[Params], Params],
) -> tuple[TrainState, Record]:
    """Return the newest state, or that before the first step, and what is known of it.

    Raises:
        UserError: it is of another seed.
    """
    restored = checkpoints.restore(program.shapes, program.shardings, batches)
    if restored is None:
        state = program.init(config.seed, config.steps)
        state = state.begin_at(warm_start(state.params))
        state = jax.device_put(state, program.shardings)
        return state, Record(config.seed, 0.0)
    state, record = restored
    if record.seed != config.seed:
        raise UserError(
            f"the run was begun with the seed {record.seed}, and the config says "
            f"{config.seed}: give another workdir"
        )
    # A run may go on for longer than it was begun for.
    steps = jax.device_put(jnp.int32(config.steps), program.shardings.steps)
    return replace(state, steps=steps), record


def _at_best(
    program: Program,
    choice: Choice,
    checkpoints: Checkpoints,
    last: Trained,
    best: Best,
    scores: Mapping[str, float],
) -> Trained:
    """Return what training ends with, as it was after the best step.

    Args:
        program: that trained.
        choice: by which that step is the best.
        checkpoints: of the run, which have it.
        last: what training ends with after the last step.
        best: the step and its score.
        scores: of the last step.
    """
    state, step = last.state, int(last.state.step)
    if best.step < step:
        for array in jax.tree.leaves(state):
            array.delete()  # there may be no room for both
        places = program.shapes, program.shardings
        state = checkpoints.state_after([best.step, step], *places)
        if int(state.step) == step:  # the best one's checkpoint is damaged
            best = Best(step, scores[choice.metric])
    ends = {
        "best": {"step": best.step, choice.metric: best.score},
        "last": {"step": step, **scores},
    }
    return last._replace(state=state, ends=ends)


def _scores(
    evaluate: Evaluate, state: TrainState, clock: Stopwatch, step: int
) -> Mapping[str, float]:
    """Return what evaluators say after a step."""
    with clock.measure("step", step):
        jax.block_until_ready(state)
    with clock.measure("evaluation", step), memory_explained(about_evaluation):
        return evaluate(state)

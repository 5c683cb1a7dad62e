"""What becomes known of steps while others are computed, and what is written of it."""

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from kdjax.errors import UserError
from kdjax.training.lines import Lines
from kdjax.training.metrics import MetricsWriter, Watch
from kdjax.training.speed import Speed, device_memory
from kdjax.training.steps import Program
from kdjax.training.stopwatch import Stopwatch

# Steps that the devices may have before them: enough that they never wait for the
# host, and few, so that what went wrong is soon known.
AHEAD = 2
NONFINITE = "nonfinite.jsonl"
# What says in a batch which records it is made of.
RECORDS = ("index", "caption")


@dataclass(frozen=True)
class Step:
    """A step that was begun.

    Attributes:
        number: counted from one.
        values: what the compiled step tells, still on the devices.
        batch: it is of.
        logged: whether it has a line of metrics.
        scores: of the model after it, by evaluators.
    """

    number: int
    values: Mapping[str, Any]
    batch: Mapping[str, Any]
    logged: bool
    scores: Mapping[str, float]


class Journal:
    """Follows the steps at a small distance, so that the devices never wait for it.

    All hosts do so at the same distance, for each has but its rows of a skipped step.
    """

    def __init__(
        self,
        program: Program,
        workdir: epath.Path,
        resumed_step: int,
        started: float,
        watch: Sequence[Watch],
        max_nonfinite: int,
    ) -> None:
        """Go on with the files of a run.

        Args:
            program: that makes the steps.
            workdir: where they are.
            resumed_step: later lines are dropped.
            started: when the run would have begun, had it never stopped, on the
                monotonic clock.
            watch: told (step, numbers) of every step as it ends; only of a logged one
                there are numbers.
            max_nonfinite: skipped steps in a row with which the run stops.
        """
        self.clock = Stopwatch(resumed_step)
        self._program = program
        self._metrics = MetricsWriter(workdir, resumed_step, started)
        self._nonfinite = Lines(workdir / NONFINITE, resumed_step)
        self._watch = watch
        self._max_nonfinite = max_nonfinite
        self._ahead: deque[Step] = deque()
        self._speed: Speed | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._metrics.seconds

    def add(self, step: Step) -> None:
        """Take note of a step that was begun, and tell of those that are long over."""
        self._speed = self._speed or Speed.of(self._program, step.batch)
        # Not its images, which would take room on the devices.
        records = {key: step.batch[key] for key in RECORDS if key in step.batch}
        self._ahead.append(replace(step, batch=records))
        self._tell(AHEAD)

    def catch_up(self) -> None:
        """Wait for all steps that were begun, and tell of them."""
        self._tell(0)

    def settle(self) -> None:
        """Wait for all steps, and put on disk what is known of them."""
        self.catch_up()
        self._metrics.flush()
        self._nonfinite.flush()

    def close(self) -> None:
        """End the files."""
        with closing(self._metrics):
            self._nonfinite.close()

    def _tell(self, ahead: int) -> None:
        """Tell of the oldest steps, when they are over, until so many are left."""
        while len(self._ahead) > ahead:
            step = self._ahead.popleft()
            with self.clock.measure("step", step.number):
                values = jax.device_get(dict(step.values))
            self._tell_one(step, {name: float(x) for name, x in values.items()})

    def _tell_one(self, step: Step, values: Mapping[str, float]) -> None:
        skipped = values["skipped_in_a_row"]
        if skipped:
            self._nonfinite.write(step.number, _records(step.batch))
        numbers = {**values, **step.scores, **self._lap(step)} if step.logged else {}
        if step.logged:
            self._metrics.write(step.number, numbers)
        for watch in self._watch:
            watch(step.number, numbers)
        if skipped >= self._max_nonfinite:
            raise UserError(
                f"the loss or its gradient is not finite at step {step.number}, as it "
                f"was in {skipped - 1:.0f} before: lower optimizer.learning_rate, or "
                f"look at the records that {NONFINITE} of the workdir names"
            )

    def _lap(self, step: Step) -> dict[str, float]:
        """Return how fast the steps were since the last line, and what they held."""
        seconds = self.clock.lap(step.number)
        speed = self._speed.metrics(seconds) if self._speed else {}
        return {**speed, **device_memory()}


def _records(batch: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return what a global batch says of its records; all hosts must ask."""
    whole = multihost_utils.process_allgather(dict(batch), tiled=True)
    return {key: np.asarray(x).tolist() for key, x in whole.items()}

"""Where the time of a run goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Waiting for data, the step itself, and what comes between steps.
PHASES = ("data", "step", "checkpoint", "evaluation")


class Stopwatch:
    """Adds up the seconds of each phase, and tells their means over some steps."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._steps = 0

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count what happens inside to a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[phase] += time.monotonic() - began

    def count_step(self) -> None:
        """Count one more step."""
        self._steps += 1

    def lap(self) -> dict[str, float]:
        """Return the mean seconds of a step in each phase since the last lap."""
        steps = max(1, self._steps)
        means = {phase: spent / steps for phase, spent in self._spent.items()}
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._steps = 0
        return means

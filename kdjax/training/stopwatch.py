"""Where the time of a run goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Waiting for data, the step itself, and what comes between steps.
PHASES = ("data", "step", "checkpoint", "evaluation")


class Stopwatch:
    """Adds up the seconds of each phase, and tells their means over some steps.

    A step is told of when later ones have begun, so what is measured is kept by step.
    """

    def __init__(self, step: int) -> None:
        """Begin after a step."""
        self._lapped = step
        self._now = dict.fromkeys(PHASES, 0.0)
        self._splits: list[tuple[int, dict[str, float]]] = []

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count what happens inside to a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._now[phase] += time.monotonic() - began

    def split(self, step: int) -> None:
        """Count what was measured since the last split to a step."""
        self._splits.append((step, self._now))
        self._now = dict.fromkeys(PHASES, 0.0)

    def lap(self, step: int) -> dict[str, float]:
        """Return the mean seconds in each phase of the steps since the last lap.

        Args:
            step: the last of them.
        """
        over = [spent for number, spent in self._splits if number <= step]
        self._splits = self._splits[len(over) :]
        steps, self._lapped = step - self._lapped, step
        return {phase: sum(spent[phase] for spent in over) / steps for phase in PHASES}

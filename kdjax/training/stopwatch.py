"""Where the time of a run goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Waiting for data, the step itself, and what comes between steps.
PHASES = ("data", "step", "checkpoint", "evaluation")


class Stopwatch:
    """Adds up the seconds that each step spends in each phase, and tells their means.

    A step is told of when later ones have begun.
    """

    def __init__(self, step: int) -> None:
        """Begin after a step."""
        self._lapped = step
        self._spent: dict[int, dict[str, float]] = {}

    @contextmanager
    def measure(self, phase: str, step: int) -> Iterator[None]:
        """Count what happens inside to a phase of a step that is not told of yet."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = self._spent.setdefault(step, dict.fromkeys(PHASES, 0.0))
            spent[phase] += time.monotonic() - began

    def lap(self, step: int) -> dict[str, float]:
        """Return the mean seconds in each phase of the steps since the last lap.

        Args:
            step: the last of them.
        """
        over = [
            self._spent.pop(number) for number in list(self._spent) if number <= step
        ]
        steps, self._lapped = step - self._lapped, step
        return {phase: sum(spent[phase] for spent in over) / steps for phase in PHASES}

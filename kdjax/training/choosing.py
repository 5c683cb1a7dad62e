"""Which step of a run is the best, and when a checkpoint is due by the clock."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kdjax import hosts
from kdjax.errors import UserError


@dataclass(frozen=True)
class Best:
    """The best score of a run so far.

    Attributes:
        step: after which it was found.
        score: the number.
    """

    step: int
    score: float


@dataclass(frozen=True)
class Choice:
    """By what the best step is chosen.

    Attributes:
        metric: an evaluator's number, such as "validation/zero_shot_accuracy".
        mode: whether its largest is the best or its smallest.
    """

    metric: str
    mode: Literal["max", "min"] = "max"

    def after(
        self, step: int, scores: Mapping[str, float], best: Best | None
    ) -> Best | None:
        """Return the best so far after a step; of equal ones it is the first.

        Of several hosts the first decides, and all must ask.

        Raises:
            UserError: the metric is not among the scores.
        """
        if self.metric not in scores:
            raise UserError(
                f"checkpoint.best is {self.metric!r}, and the evaluators say "
                f"{', '.join(sorted(scores)) or 'nothing'}: give one of these, or ''"
            )
        score = scores[self.metric]
        better = best is None or self._worth(score) > self._worth(best.score)
        if hosts.first_says(better and math.isfinite(score)):
            return Best(step, score)
        return best

    def _worth(self, score: float) -> float:
        return score if self.mode == "max" else -score


class Alarm:
    """Rings when some time is over, on all hosts or on none."""

    def __init__(self, minutes: float) -> None:
        """Begin to wait; 0 minutes for ever."""
        self._seconds = 60 * minutes
        self.set()

    def set(self) -> None:
        """Begin to wait once more."""
        self._since = time.monotonic()

    def rings(self) -> bool:
        """Return whether the time is over by the first host's clock; all must ask."""
        if not self._seconds:
            return False
        return hosts.first_says(time.monotonic() - self._since >= self._seconds)

"""The options of objectives: defaults, what is allowed, and what a spec gives."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from kdjax.errors import UserError
from kdjax.objectives.schedules import Schedule, check_schedule

Value = str | float | Schedule

# From here on products and sums soon leave what 32 bits hold, which is 3.4e38.
BEYOND = 1e38


@dataclass(frozen=True)
class Option:
    """What an option may be; the values are hashable, being static under jit.

    Attributes:
        default: where a spec says nothing.
        choices: the names that it may be.
        least: the smallest number that it may be; None where it is never a number.
        most: the largest.
        pattern: what other text it may be matches; the default shows it.
        scheduled: whether a schedule of such numbers may stand in their place.
    """

    default: Value
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float = math.inf
    pattern: str | None = None
    scheduled: bool = False

    def check(self, what: str, value: Any) -> None:
        """Raise a UserError that says what `what` may be, unless it may be `value`."""
        if self.scheduled and isinstance(value, Mapping | Schedule):
            given = check_schedule(what, value)
            number = replace(self, choices=(), scheduled=False)
            for end in ("start", "end"):
                number.check(f"the {end} of {what}", given[end])
            return
        if isinstance(value, str) and self._is_text(value):
            return
        least = math.inf if self.least is None else self.least
        if _is_number(value) and least <= value <= self.most:
            return
        allowed = [repr(choice) for choice in self.choices]
        if self.pattern is not None:
            allowed.append(f"text such as {self.default!r}")
        if self.least is not None and self.most < math.inf:
            allowed.append(f"a number from {self.least:g} to {self.most:g}")
        elif self.least is not None:
            allowed.append(f"a number of at least {self.least:g} and below {BEYOND:g}")
        raise UserError(f"{what} is {value!r}; give {' or '.join(allowed)}")

    def _is_text(self, value: str) -> bool:
        matches = self.pattern is not None and re.fullmatch(self.pattern, value)
        return value in self.choices or bool(matches)


def static(value: Any) -> Value:
    """Return a checked value as it may be a static argument of a jitted step."""
    if isinstance(value, str | Schedule):
        return value
    if isinstance(value, Mapping):
        given: dict[str, Any] = {key: static(item) for key, item in value.items()}
        return Schedule(**given)
    # A 2 is a 2.0, so that both make the same.
    return float(value)


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < BEYOND


def check_options(
    objective: str, given: Mapping[str, Any], options: Mapping[str, Option]
) -> None:
    """Check what a spec gives for one objective.

    Raises:
        UserError: an unknown option (the nearest is named) or a bad value.
    """
    for key, value in given.items():
        if key not in options:
            raise UserError(unknown(f"option of objective {objective}", key, options))
        options[key].check(f"{key} of objective {objective}", value)


def unknown(what: str, name: Any, known: Mapping[str, Any]) -> str:
    """Return the sentence about a name that is not known, with the nearest one."""
    nearest = get_close_matches(str(name), known, n=1, cutoff=0.0)
    return (
        f"there is no {what} {name!r}; did you mean {nearest[0]!r}? "
        f"(there are {', '.join(known)})"
    )

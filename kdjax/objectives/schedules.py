"""Numbers among the options of objectives that move while a student is trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.errors import UserError

SHAPES = ("linear", "cosine", "step")
# A number, or what a schedule gives in a step.
Scalar = Float[Array, ""] | float


@dataclass(frozen=True)
class Schedule:
    """A number that goes from one value to another; a static value under jit.

    Attributes:
        start: the value until `begin`.
        end: the value from `until` on.
        shape: how it goes there in between: "linear", "cosine" (by half of one) or
            "step" (it stays at `start`).
        begin: a share of the steps.
        until: a later share of the steps.
    """

    start: float
    end: float
    shape: str = "linear"
    begin: float = 0.0
    until: float = 1.0

    def at(self, progress: Scalar) -> Float[Array, ""]:
        """Return the value when a share `progress` of the steps is made."""
        progress = jnp.float32(progress)
        gone = jnp.clip((progress - self.begin) / (self.until - self.begin), 0.0, 1.0)
        if self.shape == "cosine":
            gone = (1 - jnp.cos(jnp.pi * gone)) / 2
        if self.shape == "step":
            gone = jnp.float32(0)
        between = (1 - gone) * self.start + gone * self.end
        # Chosen rather than reached, so that an end of 0 is one.
        return jnp.where(progress < self.until, between, jnp.float32(self.end))

    def __format__(self, spec: str) -> str:
        """Return both values as text, each by `spec`."""
        return f"{self.start:{spec}} to {self.end:{spec}}"


FIELDS = tuple(field.name for field in fields(Schedule))


def value_at(value: Any, progress: Scalar) -> Any:
    """Return an option's value when a share `progress` of the steps is made."""
    return value.at(progress) if isinstance(value, Schedule) else value


def check_schedule(what: str, given: Mapping[str, Any] | Schedule) -> dict[str, Any]:
    """Check all of a schedule but its two values; return it as a mapping.

    Raises:
        UserError: a key is missing or unknown, the shape is none, or it does not end
            after it begins, within the steps.
    """
    chosen = asdict(given) if isinstance(given, Schedule) else dict(given)
    if "start" not in chosen or "end" not in chosen or not set(chosen) <= set(FIELDS):
        raise UserError(
            f"{what} is {given!r}; give a number, or a schedule with start and end and "
            "perhaps shape, begin and until, such as {'start': 1.0, 'end': 0.0}"
        )
    if chosen.get("shape", "linear") not in SHAPES:
        raise UserError(
            f"the shape of {what} is {chosen['shape']!r}; give {' or '.join(SHAPES)}"
        )
    begin, until = chosen.get("begin", 0.0), chosen.get("until", 1.0)
    numbers = all(type(share) in (int, float) for share in (begin, until))
    if not numbers or not 0 <= begin < until <= 1:
        raise UserError(
            f"{what} is to begin at {begin!r} and to go on until {until!r}; give "
            "shares of the steps from 0 to 1, the second above the first"
        )
    return chosen

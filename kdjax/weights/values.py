"""Values that the configs of all layouts write alike."""

from collections.abc import Iterable
from typing import Any

from kdjax.errors import UserError


def square_side(size: Any) -> int:
    """Return the side of a square that is written as a number or as a pair.

    Raises:
        UserError: it is no square.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UserError(f"images or patches of {size} are not square: they must be")
    return sides.pop()


def channels(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the numbers of red, green and blue.

    Raises:
        ValueError: there are not three.
    """
    red, green, blue = map(float, values)
    return red, green, blue

"""Random draws that depend on a key alone, so that any host makes the same sample."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# A multiple of the four words of one counter, so that none is left over at a turn.
_BLOCK = 128


def _uniforms(bits: np.random.Philox) -> Callable[[], float]:
    return chain.from_iterable(_blocks(bits)).__next__


def _blocks(bits: np.random.Philox) -> Iterator[list[float]]:
    # Only the raw bits of a generator are promised to stay the same over NumPy's
    # releases, so the step to [0, 1) is made here: the top 53 bits of each word.
    while True:
        yield ((bits.random_raw(_BLOCK) >> np.uint64(11)) * 2.0**-53).tolist()


class Dice:
    """Uniform draws keyed by (seed, split, index, stream).

    The key is that of Philox (Salmon et al., 2011, "Parallel random numbers: as easy
    as 1, 2, 3"), a counter-based generator: streams of different keys never meet, and
    none of them needs the ones before it.
    """

    def __init__(self, seed: int, split: int, index: int, stream: int) -> None:
        key = np.array([seed, split], np.uint64)
        counter = np.array([0, 0, stream, index], np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)
        self._draw = _uniforms(self._bits)

    def turn_to(self, stream: int) -> None:
        """Draw from the start of another stream of the same seed, split and index.

        The same as new dice, but much faster: making a generator takes longer than all
        that most streams are asked for.
        """
        state = self._bits.state
        state["state"]["counter"][:3] = 0, 0, stream
        self._bits.state = state
        self._draw = _uniforms(self._bits)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number from [low, high)."""
        return low + (high - low) * self._draw()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._draw() < probability

    def below(self, bound: int) -> int:
        """Draw an integer from 0 to bound - 1."""
        return int(self._draw() * bound)

    def pick(self, items: Sequence[T]) -> T:
        """Draw one item; every item is as likely as any other."""
        return items[int(self._draw() * len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """Draw one item with probability proportional to its weight."""
        mark = self._draw() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            mark -= weight
            if mark < 0:
                return item
        return items[-1]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a random order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = int(self._draw() * (last + 1))
            order[last], order[other] = order[other], order[last]
        return order

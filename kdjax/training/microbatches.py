"""A batch in parts, so that the activations of one part at a time are held."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array


def in_parts(see: Callable[[Any], Any], rows: Any, size: int) -> Any:
    """Return `see(rows)`, computed from `size` rows at a time.

    Gradient caching (Gao 2021, arXiv:2101.06983): on the way back every part is seen
    once more, and the loss of what was seen is that of the whole batch.

    Args:
        see: of arrays of rows, to arrays of rows [B, ...] and scalars, which are the
            same for all rows.
        rows: arrays [B, ...].
        size: divides B; 0 for all at once.
    """
    count = len(jax.tree.leaves(rows)[0])
    if size in (0, count):
        return see(rows)
    parts = count // size

    # Dealt out like cards, so that of a batch that is split over devices every device
    # has as many rows in each part.
    def deal(x: Array) -> Array:
        return x.reshape(size, parts, *x.shape[1:]).swapaxes(0, 1)

    def collect(x: Array) -> Array:
        if x.ndim == 1:
            return x[0]
        return x.swapaxes(0, 1).reshape(count, *x.shape[2:])

    seen = jax.lax.map(jax.checkpoint(see), jax.tree.map(deal, rows))
    return jax.tree.map(collect, seen)

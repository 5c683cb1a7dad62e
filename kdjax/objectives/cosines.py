"""Rows of length one and the cosines of rows with rows."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdjax.objectives.schedules import Scalar

# The square of the smallest norm that is divided by.
TINY = 1e-24


def normalize(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Return rows of length one in float32; a zero row stays zero, its gradient too."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x * x, -1, keepdims=True)
    directed = squares > TINY
    # Two selections: the first keeps infinity out of the gradient of the second.
    inverse = jax.lax.rsqrt(jnp.where(directed, squares, 1.0))
    return x * jnp.where(directed, inverse, 0.0)


def unit_rows(x: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B D"]:
    """Return rows of length one in float64, outside of any gradient."""
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def pair_logits(
    rows: Float[Array, "B D"],
    columns: Float[Array, "B D"],
    scale: Scalar,
) -> Float[Array, "B B"]:
    """Return the scaled cosine of every row with every column."""
    cosines = jnp.matmul(
        normalize(rows), normalize(columns).T, precision=jax.lax.Precision.HIGHEST
    )
    return scale * cosines

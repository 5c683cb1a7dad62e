"""How far one set of rows of logits is from another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def row_divergences(
    teacher: Float[Array, "B C"], student: Float[Array, "B C"]
) -> Float[Array, " B"]:
    """Return KL(softmax of the teacher's logits || softmax of the student's) by row."""
    return log_divergences(jax.nn.log_softmax(teacher), jax.nn.log_softmax(student))


def log_divergences(
    target: Float[Array, "B C"], found: Float[Array, "B C"]
) -> Float[Array, " B"]:
    """Return KL(exp target || exp found) by row."""
    p, q = jnp.exp(target), jnp.exp(found)
    # Both sum to one, so q - p adds nothing but what rounding takes from a small KL.
    return jnp.sum(p * (target - found) + (q - p), axis=1)

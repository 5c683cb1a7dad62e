"""How far one array is from another: divergences of rows of logits, Huber's loss."""

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


def huber(ours: Float[Array, "*B"], theirs: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Return half the squared difference, or a line where they differ by over one."""
    far = jnp.abs(ours - theirs)
    return jnp.where(far < 1, far**2 / 2, far - 0.5)

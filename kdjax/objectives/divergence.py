"""How far one set of rows of logits is from another."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def row_divergences(
    teacher: Float[Array, "B C"], student: Float[Array, "B C"]
) -> Float[Array, " B"]:
    """Return KL(softmax of the teacher's logits || softmax of the student's) by row."""
    target = jax.nn.log_softmax(teacher)
    return jnp.sum(jnp.exp(target) * (target - jax.nn.log_softmax(student)), axis=1)

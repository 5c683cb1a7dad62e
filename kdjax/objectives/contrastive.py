"""What contrastive objectives share, and the contrastive task loss itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
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


def student_logits(student: Embeddings) -> Float[Array, "B B"]:
    """Return L = s n(I) n(T)^T."""
    return pair_logits(
        student.image, student.text, student.logit_scale.astype(jnp.float32)
    )


def teacher_logits(
    teacher: Embeddings, teacher_scale: str | Scalar
) -> Float[Array, "B B"]:
    """Return L' = s' n(I') n(T')^T, its s' chosen as `scale_of` says."""
    return pair_logits(teacher.image, teacher.text, scale_of(teacher, teacher_scale))


def scale_of(teacher: Embeddings, teacher_scale: str | Scalar) -> Scalar:
    """Return the logit scale of a teacher's soft targets.

    Args:
        teacher: with its own scale and, where it was calibrated, that one.
        teacher_scale: "own", the learnt scale; "calibrated", the calibrated one, or the
            learnt where there is none; or a number in their place.
    """
    if not isinstance(teacher_scale, str):
        return teacher_scale
    calibrated = teacher.calibrated_scale
    chosen = teacher.logit_scale if calibrated is None else calibrated
    return (teacher.logit_scale if teacher_scale == "own" else chosen).astype(
        jnp.float32
    )


def diagonal_cross_entropy(logits: Float[Array, "B B"]) -> Float[Array, ""]:
    """Return the mean over rows of the cross-entropy with the diagonal as target."""
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))


def clip_loss(student: Embeddings) -> Float[Array, ""]:
    """Return CE(L) both ways, L = s n(I) n(T)^T (Radford 2021, arXiv:2103.00020).

    Args:
        student: image and text [B, D], logit_scale.
    """
    logits = student_logits(student)
    return (diagonal_cross_entropy(logits) + diagonal_cross_entropy(logits.T)) / 2

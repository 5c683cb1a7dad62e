"""The objectives of CLIP-KD (Yang et al. 2024, arXiv:2307.12732)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import (
    diagonal_cross_entropy,
    normalize,
    pair_logits,
)


def crd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    teacher_scale: str | float = "calibrated",
) -> Float[Array, ""]:
    """Return KL(softmax of the teacher's logits || softmax of the student's) both ways.

    Contrastive relational distillation: each side with its own logits s n(I) n(T)^T,
    the KL summed over columns and averaged over rows.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    scale = scale_of(teacher, teacher_scale)
    ours = pair_logits(
        student.image, student.text, student.logit_scale.astype(jnp.float32)
    )
    theirs = pair_logits(teacher.image, teacher.text, scale)
    return (_row_divergence(theirs, ours) + _row_divergence(theirs.T, ours.T)) / 2


def scale_of(
    teacher: Embeddings, teacher_scale: str | float
) -> Float[Array, ""] | float:
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


def _row_divergence(
    teacher: Float[Array, "B B"], student: Float[Array, "B B"]
) -> Float[Array, ""]:
    target = jax.nn.log_softmax(teacher)
    terms = jnp.exp(target) * (target - jax.nn.log_softmax(student))
    return jnp.mean(jnp.sum(terms, axis=1))


def fd_loss(
    student: Embeddings, teacher: Embeddings, *, reduction: str = "sum"
) -> Float[Array, ""]:
    """Return |n(PI) - n(I')|^2 + |n(PT) - n(T')|^2, the mean over the batch.

    Feature distillation. Summed over the width (default), a term is 2 (1 - cos) at any
    width; `reduction="mean"` averages over the width as the released code does.

    Args:
        student: image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D].
        reduction: "sum" or "mean" over the width.
    """

    def distance(ours: Array, theirs: Array) -> Array:
        squares = (normalize(ours) - normalize(theirs)) ** 2
        return jnp.mean(squares) if reduction == "mean" else squares.sum(-1).mean()

    return distance(student.image, teacher.image) + distance(student.text, teacher.text)


def icl_loss(
    student: Embeddings, teacher: Embeddings, *, scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Return CE(c n(PI) n(T')^T) and CE(c n(PT) n(I')^T), averaged.

    Interactive contrastive learning: the student's rows against the teacher's columns.

    Args:
        student: image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D].
        scale: the learnt c.
    """
    image = pair_logits(student.image, teacher.text, scale)
    text = pair_logits(student.text, teacher.image, scale)
    return (diagonal_cross_entropy(image) + diagonal_cross_entropy(text)) / 2

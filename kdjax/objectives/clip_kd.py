"""The objectives of CLIP-KD (Yang et al. 2024, arXiv:2307.12732)."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import (
    diagonal_cross_entropy,
    normalize,
    pair_logits,
    scale_of,
    student_logits,
    teacher_logits,
)
from kdjax.objectives.schedules import Scalar


def crd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    teacher_scale: str | Scalar = "calibrated",
) -> Float[Array, ""]:
    """Return KL(softmax of the teacher's logits || softmax of the student's) both ways.

    Contrastive relational distillation: each side with its own logits s n(I) n(T)^T,
    the KL summed over columns and averaged over rows.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    ours, theirs = student_logits(student), teacher_logits(teacher, teacher_scale)
    return (_row_divergence(theirs, ours) + _row_divergence(theirs.T, ours.T)) / 2


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


def mfd_loss(
    student: Embeddings, teacher: Embeddings, *, reduction: str = "sum"
) -> Float[Array, ""]:
    """Return `fd_loss` of a student that sees a masked image; its text is whole.

    Masked feature distillation. Three in four patches are dropped before the
    transformer (He 2022, arXiv:2111.06377), as the paper says: the released code
    overwrites the masked embeddings, and so repeats `fd_loss`.

    Args:
        student: masked_image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D].
        reduction: "sum" or "mean" over the width.
    """
    assert student.masked_image is not None
    masked = replace(student, image=student.masked_image)
    return fd_loss(masked, teacher, reduction=reduction)


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


def cross_kd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    scale: Float[Array, ""],
    teacher_scale: str | Scalar = "calibrated",
) -> Float[Array, ""]:
    """Return KL(softmax L' || softmax(c n(PI) n(T')^T)) and that of texts, averaged.

    Of the released code, not of the paper: `icl_loss` with the teacher's own matches
    for targets. The text's is KL(softmax L'^T || softmax(c n(PT) n(I')^T)).

    Args:
        student: image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D], logit_scale and perhaps calibrated_scale.
        scale: the learnt c, which is that of `icl_loss`.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    theirs = teacher_logits(teacher, teacher_scale)
    image = pair_logits(student.image, teacher.text, scale)
    text = pair_logits(student.text, teacher.image, scale)
    return (_row_divergence(theirs, image) + _row_divergence(theirs.T, text)) / 2


def gd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    form: str = "unit",
    teacher_scale: str | Scalar = "calibrated",
) -> Float[Array, ""]:
    """Return the squared distance between both sides' gradients of `clip_loss`.

    Gradient distillation: with p = softmax L and q = softmax L^T, the four terms
    (p - 1) n(T), (p - 1)^T n(I), (q - 1) n(I) and (q - 1)^T n(T), where 1 is the
    identity: what the image-anchored loss says of images and of texts, then the
    text-anchored of texts and of images.

    Args:
        student: image and text [B, D], projected to the teacher's width; logit_scale.
        teacher: image and text [B, D], logit_scale and perhaps calibrated_scale.
        form: "unit", these terms, summed over the width and averaged over the batch;
            "paper", each times its scale / B, averaged over batch and width;
            "released", as the public code, in which 1 / scale is where a scale should
            be, within the softmax too.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    scale = student.logit_scale.astype(jnp.float32)
    ours = _clip_gradients(student, scale, form)
    theirs = _clip_gradients(teacher, scale_of(teacher, teacher_scale), form)
    zero = jnp.zeros(student.image.shape, jnp.float32)
    squares = sum(((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)), zero)
    return squares.sum(-1).mean() if form == "unit" else jnp.mean(squares)


def _clip_gradients(
    side: Embeddings, scale: Float[Array, ""] | float, form: str
) -> list[Float[Array, "B D"]]:
    scale = 1 / scale if form == "released" else scale
    logits = pair_logits(side.image, side.text, scale)
    image, text = normalize(side.image), normalize(side.text)
    identity = jnp.eye(len(image))
    of_image = jax.nn.softmax(logits) - identity
    of_text = jax.nn.softmax(logits.T) - identity
    factor = 1.0 if form == "unit" else scale / len(image)
    pairs = [(of_image, text), (of_image.T, image), (of_text, image), (of_text.T, text)]
    return [
        factor * jnp.matmul(errors, rows, precision=jax.lax.Precision.HIGHEST)
        for errors, rows in pairs
    ]


def afd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    fusion: Callable[[Embeddings], Embeddings],
    scale: Float[Array, ""],
) -> Float[Array, ""]:
    """Return CE(f n(F) n(G)^T) both ways, F = W_i [n(I), n(I')], G = W_t [n(T), n(T')].

    Augmented feature distillation: the student's and the teacher's embeddings, side by
    side and mapped to the student's width, are to match as pairs.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        fusion: the learnt W_i and W_t, [B, Ds + Dt] -> [B, Ds].
        scale: the learnt f.
    """

    def beside(ours: Array, theirs: Array) -> Array:
        return jnp.concatenate([normalize(ours), normalize(theirs)], axis=-1)

    both = Embeddings(
        image=beside(student.image, teacher.image),
        text=beside(student.text, teacher.text),
        logit_scale=student.logit_scale,
    )
    fused = fusion(both)
    logits = pair_logits(fused.image, fused.text, scale)
    return (diagonal_cross_entropy(logits) + diagonal_cross_entropy(logits.T)) / 2

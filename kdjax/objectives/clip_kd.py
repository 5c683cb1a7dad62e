"""The objectives of CLIP-KD (Yang et al. 2024, arXiv:2307.12732)."""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import (
    both_ways,
    matches_of,
    student_logits,
    teacher_logits,
)
from kdjax.objectives.cosines import normalize
from kdjax.objectives.pairs import Logits, PairSum, Softmax
from kdjax.objectives.schedules import Scalar


def crd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    teacher_scale: str | Scalar = "calibrated",
) -> PairSum:
    """Return KL(softmax of the teacher's logits || softmax of the student's) both ways.

    Contrastive relational distillation: each side with its own logits s n(I) n(T)^T,
    the KL summed over columns and averaged over rows.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    return both_ways(
        student_logits(student),
        [teacher_logits(teacher, teacher_scale)],
        divergence=True,
    )


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
    student: Embeddings,
    teacher: Embeddings,
    *,
    scale: Float[Array, ""],
    duplicates: str = "negative",
) -> PairSum:
    """Return CE(c n(PI) n(T')^T) and CE(c n(PT) n(I')^T), averaged.

    Interactive contrastive learning: the student's rows against the teacher's columns.

    Args:
        student: image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D].
        scale: the learnt c.
        duplicates: "negative", "mask" or "spread", see `matches_of`.
    """
    matches = matches_of(student, duplicates)
    each = _across(student, teacher, scale)
    return PairSum(tuple((0.5, Softmax(x, matches=matches)) for x in each))


def _across(
    student: Embeddings, teacher: Embeddings, scale: Scalar
) -> tuple[Logits, Logits]:
    """Return c n(PI) n(T')^T and c n(PT) n(I')^T."""
    image = Logits(student.image, teacher.text, scale)
    return image, Logits(student.text, teacher.image, scale)


def cross_kd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    scale: Float[Array, ""],
    teacher_scale: str | Scalar = "calibrated",
) -> PairSum:
    """Return KL(softmax L' || softmax(c n(PI) n(T')^T)) and that of texts, averaged.

    Of the released code, not of the paper: `icl_loss` with the teacher's own matches
    for targets. The text's is KL(softmax L'^T || softmax(c n(PT) n(I')^T)).

    Args:
        student: image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D], logit_scale and perhaps calibrated_scale.
        scale: the learnt c, which is that of `icl_loss`.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    image, text = _across(student, teacher, scale)
    theirs = teacher_logits(teacher, teacher_scale)
    turned = replace(theirs, rows=theirs.columns, columns=theirs.rows)
    return PairSum(
        tuple(
            (0.5, Softmax(logits, (target,), divergence=True))
            for logits, target in ((image, theirs), (text, turned))
        )
    )


def afd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    fusion: Callable[[Embeddings], Embeddings],
    scale: Float[Array, ""],
    duplicates: str = "negative",
) -> PairSum:
    """Return CE(f n(F) n(G)^T) both ways, F = W_i [n(I), n(I')], G = W_t [n(T), n(T')].

    Augmented feature distillation: the student's and the teacher's embeddings, side by
    side and mapped to the student's width, are to match as pairs.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        fusion: the learnt W_i and W_t, [B, Ds + Dt] -> [B, Ds].
        scale: the learnt f.
        duplicates: "negative", "mask" or "spread", see `matches_of`.
    """

    def beside(ours: Array, theirs: Array) -> Array:
        return jnp.concatenate([normalize(ours), normalize(theirs)], axis=-1)

    both = Embeddings(
        image=beside(student.image, teacher.image),
        text=beside(student.text, teacher.text),
        logit_scale=student.logit_scale,
    )
    fused = fusion(both)
    logits = Logits(fused.image, fused.text, scale)
    return both_ways(logits, matches=matches_of(student, duplicates))

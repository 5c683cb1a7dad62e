"""Cross-entropies whose targets are the teacher's probabilities."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import (
    pair_logits,
    scale_of,
    student_logits,
    teacher_logits,
)
from kdjax.objectives.divergence import row_divergences
from kdjax.objectives.schedules import Scalar


def open_clip_distill_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    teacher_scale: str | Scalar = "calibrated",
) -> Float[Array, ""]:
    """Return -sum softmax(L') log softmax(L) over columns, both ways, mean over rows.

    OpenCLIP's `DistillClipLoss`: `crd_loss` and the teacher's entropy, so its gradient
    is that of `crd_loss`.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    ours, theirs = student_logits(student), teacher_logits(teacher, teacher_scale)
    return (
        _soft_cross_entropy(theirs, ours) + _soft_cross_entropy(theirs.T, ours.T)
    ) / 2


def multi_teacher_loss(
    student: Embeddings,
    teachers: tuple[Embeddings, ...],
    *,
    teacher_scale: str | Scalar = "calibrated",
    average: str = "probabilities",
) -> Float[Array, ""]:
    """Return KL(mean over teachers of softmax L'_k || softmax L) both ways.

    The ensemble of MobileCLIP (Vasu 2024, arXiv:2311.17049), averaged after the
    softmax. Of one teacher it is `crd_loss`.

    Args:
        student: image and text [B, Ds], logit_scale.
        teachers: each with image and text [B, Dt], logit_scale and perhaps
            calibrated_scale.
        teacher_scale: "calibrated" or "own", each teacher's, or a number for all, see
            `scale_of`.
        average: over teachers, of the "probabilities" or of the "divergences".
    """
    ours = student_logits(student)
    theirs = [teacher_logits(teacher, teacher_scale) for teacher in teachers]

    def one_way(ours: Array, theirs: Sequence[Array]) -> Array:
        if average == "probabilities":
            # Logits whose softmax is the mean of all.
            logarithms = jnp.stack([jax.nn.log_softmax(x) for x in theirs])
            theirs = [jax.nn.logsumexp(logarithms, axis=0)]
        return jnp.mean(jnp.stack([row_divergences(x, ours) for x in theirs]))

    return (one_way(ours, theirs) + one_way(ours.T, [x.T for x in theirs])) / 2


def affinity_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    student_scale: str | Scalar = "own",
    teacher_scale: str | Scalar = "calibrated",
    image_image: float = 0.0,
    text_text: float = 0.0,
) -> Float[Array, ""]:
    """Return -sum softmax(L') log softmax(L) over columns, both ways, mean over rows.

    Affinity mimicking of TinyCLIP (Wu 2023, arXiv:2309.12314), whose scripts pin both
    scales to 50 and use no other loss. Options add the same of L = s n(I) n(I)^T and of
    s n(T) n(T)^T, diagonals included.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        student_scale: "own", or a number in place of the learnt scale.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
        image_image: weight of the affinities of images with images.
        text_text: weight of those of texts with texts.
    """
    theirs = scale_of(teacher, teacher_scale)
    own = student.logit_scale.astype(jnp.float32)
    ours = own if isinstance(student_scale, str) else student_scale

    def logits(rows: str, columns: str) -> list[Array]:
        return [
            pair_logits(getattr(side, rows), getattr(side, columns), scale)
            for side, scale in ((teacher, theirs), (student, ours))
        ]

    targets, said = logits("image", "text")
    across = _soft_cross_entropy(targets, said) + _soft_cross_entropy(targets.T, said.T)
    loss = across / 2
    for weight, modality in ((image_image, "image"), (text_text, "text")):
        if weight:
            loss += weight * _soft_cross_entropy(*logits(modality, modality))
    return loss


def _soft_cross_entropy(
    teacher: Float[Array, "B B"], student: Float[Array, "B B"]
) -> Float[Array, ""]:
    terms = jax.nn.softmax(teacher) * jax.nn.log_softmax(student)
    return -jnp.mean(jnp.sum(terms, axis=1))

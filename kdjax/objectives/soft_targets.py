"""Cross-entropies whose targets are the teacher's probabilities."""

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import (
    both_ways,
    scale_of,
    student_logits,
    teacher_logits,
)
from kdjax.objectives.pairs import Logits, PairSum, Softmax
from kdjax.objectives.schedules import Scalar


def open_clip_distill_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    teacher_scale: str | Scalar = "calibrated",
) -> PairSum:
    """Return -sum softmax(L') log softmax(L) over columns, both ways, mean over rows.

    OpenCLIP's `DistillClipLoss`: `crd_loss` and the teacher's entropy, so its gradient
    is that of `crd_loss`.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    return both_ways(student_logits(student), [teacher_logits(teacher, teacher_scale)])


def multi_teacher_loss(
    student: Embeddings,
    teachers: tuple[Embeddings, ...],
    *,
    teacher_scale: str | Scalar = "calibrated",
    average: str = "probabilities",
) -> PairSum:
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
    if average == "probabilities":
        return both_ways(ours, theirs, divergence=True)
    first, *rest = (both_ways(ours, [x], divergence=True) for x in theirs)
    return sum(rest, start=first) / len(theirs)


def affinity_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    student_scale: str | Scalar = "own",
    teacher_scale: str | Scalar = "calibrated",
    image_image: float = 0.0,
    text_text: float = 0.0,
) -> PairSum:
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
    ours = student.logit_scale if isinstance(student_scale, str) else student_scale

    def within(rows: str, columns: str) -> tuple[Logits, list[Logits]]:
        logits, target = (
            Logits(getattr(side, rows), getattr(side, columns), scale)
            for side, scale in ((student, ours), (teacher, theirs))
        )
        return logits, [target]

    loss = both_ways(*within("image", "text"))
    for weight, modality in ((image_image, "image"), (text_text, "text")):
        if weight:
            logits, targets = within(modality, modality)
            loss += PairSum(((weight, Softmax(logits, tuple(targets))),))
    return loss

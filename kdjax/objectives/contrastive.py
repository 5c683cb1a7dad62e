"""What contrastive objectives share, and the contrastive task loss itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives.pairs import Logits, Matches, PairSum, Softmax
from kdjax.objectives.schedules import Scalar


def student_logits(student: Embeddings) -> Logits:
    """Return L = s n(I) n(T)^T."""
    return Logits(student.image, student.text, student.logit_scale)


def teacher_logits(teacher: Embeddings, teacher_scale: str | Scalar) -> Logits:
    """Return L' = s' n(I') n(T')^T, its s' chosen as `scale_of` says."""
    return Logits(teacher.image, teacher.text, scale_of(teacher, teacher_scale))


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
    return teacher.logit_scale if teacher_scale == "own" else chosen


def both_ways(
    logits: Logits, targets: Sequence[Logits] = (), **options: Any
) -> PairSum:
    """Return the mean of `Softmax` over rows and over columns."""
    rows = Softmax(logits, tuple(targets), **options)
    return PairSum(((0.5, rows), (0.5, replace(rows, way="columns"))))


def matches_of(student: Embeddings, duplicates: str) -> Matches:
    """Return which pairs match where a batch may have a caption twice.

    Args:
        student: with text_id, unless duplicates are negatives.
        duplicates: "negative", two of one caption are no match, as published; "mask",
            they are left out; "spread", all of one caption match alike.

    Raises:
        UserError: nothing says which texts are equal.
    """
    if duplicates == "negative":
        return Matches()
    if student.text_id is None:
        raise UserError(
            f"duplicates are {duplicates!r} and nothing says which texts are equal: "
            "give the student's text_id, or set duplicates to negative"
        )
    return Matches(student.text_id, spread=duplicates == "spread")


def clip_loss(student: Embeddings, *, duplicates: str = "negative") -> PairSum:
    """Return CE(L) both ways, L = s n(I) n(T)^T (Radford 2021, arXiv:2103.00020).

    Args:
        student: image and text [B, D], logit_scale.
        duplicates: "negative", "mask" or "spread", see `matches_of`.
    """
    return both_ways(student_logits(student), matches=matches_of(student, duplicates))

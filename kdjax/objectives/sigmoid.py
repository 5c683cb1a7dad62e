"""Sigmoid losses: every pair of a batch is a match or not, by itself."""

from dataclasses import replace

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import matches_of, student_logits, teacher_logits
from kdjax.objectives.pairs import Logits, PairSum, Sigmoid
from kdjax.objectives.schedules import Scalar


def siglip_loss(student: Embeddings, *, duplicates: str = "negative") -> PairSum:
    """Return -sum over pairs of log sigmoid(z (s n(I) n(T)^T + b)), divided by B.

    z is 1 for the pairs of the batch, on the diagonal, and -1 for all others (SigLIP,
    Zhai 2023, arXiv:2303.15343).

    Args:
        student: image and text [B, D], logit_scale and logit_bias.
        duplicates: "negative", "mask" or "spread", see `matches_of`; spread, every pair
            of equal captions is a match.
    """
    logits = replace(student_logits(student), bias=student.logit_bias)
    matches = matches_of(student, duplicates)
    return PairSum(((1.0, Sigmoid(logits, matches=matches)),))


def siglip_distill_loss(
    student: Embeddings,
    teachers: tuple[Embeddings, ...],
    *,
    temperature: Scalar = 1.0,
    form: str = "soft",
    teacher_scale: str | Scalar = "own",
    teacher_bias: str | float = "own",
) -> PairSum:
    """Return the cross-entropy of pairs' matches against the teacher's, over B.

    With z = (s n(I) n(T)^T + b) / temperature and y the mean of the sigmoids of the
    teachers' same: -sum over pairs of y log sigmoid(z) + (1 - y) log sigmoid(-z),
    divided by B.

    Args:
        student: image and text [B, Ds], logit_scale and logit_bias.
        teachers: each with image and text [B, Dt], logit_scale, logit_bias of a sigmoid
            model.
        temperature: that both sides' logits are divided by.
        form: "soft", as above; "mobileclip2", -log sigmoid((2 y - 1) z) as in the code
            of MobileCLIP2 (Faghri 2025), which teaches nothing where y is a half and is
            not at its least where z is the teacher's.
        teacher_scale: as of `scale_of`; a sigmoid model's bias goes with its own scale.
        teacher_bias: "own", which is 0 for a softmax model, or a number.
    """

    def logits(teacher: Embeddings) -> Logits:
        bias = teacher.logit_bias if isinstance(teacher_bias, str) else teacher_bias
        return replace(teacher_logits(teacher, teacher_scale), bias=bias)

    ours = replace(student_logits(student), bias=student.logit_bias)
    theirs = tuple(_divided(logits(teacher), temperature) for teacher in teachers)
    signed = form == "mobileclip2"
    return PairSum(((1.0, Sigmoid(_divided(ours, temperature), theirs, signed)),))


def _divided(logits: Logits, temperature: Scalar) -> Logits:
    bias = None if logits.bias is None else logits.bias / temperature
    return replace(logits, scale=logits.scale / temperature, bias=bias)

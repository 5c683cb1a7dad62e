"""Sigmoid losses: every pair of a batch is a match or not, by itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import student_logits, teacher_logits
from kdjax.objectives.schedules import Scalar


def siglip_loss(student: Embeddings) -> Float[Array, ""]:
    """Return -sum over pairs of log sigmoid(z (s n(I) n(T)^T + b)), divided by B.

    z is 1 for the pairs of the batch, on the diagonal, and -1 for all others (SigLIP,
    Zhai 2023, arXiv:2303.15343).

    Args:
        student: image and text [B, D], logit_scale and logit_bias.
    """
    logits = student_logits(student) + _bias(student)
    signs = 2 * jnp.eye(len(logits)) - 1
    return jax.nn.softplus(-signs * logits).sum() / len(logits)


def siglip_distill_loss(
    student: Embeddings,
    teachers: tuple[Embeddings, ...],
    *,
    temperature: Scalar = 1.0,
    form: str = "soft",
    teacher_scale: str | Scalar = "own",
    teacher_bias: str | float = "own",
) -> Float[Array, ""]:
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
    ours = (student_logits(student) + _bias(student)) / temperature

    def logits(teacher: Embeddings) -> Array:
        chosen = _bias(teacher) if isinstance(teacher_bias, str) else teacher_bias
        return (teacher_logits(teacher, teacher_scale) + chosen) / temperature

    theirs = jnp.stack([logits(teacher) for teacher in teachers])
    if form == "mobileclip2":
        terms = jax.nn.softplus(-ours * jnp.tanh(theirs / 2).mean(0))
    else:
        terms = jax.nn.sigmoid(theirs).mean(0) * jax.nn.softplus(-ours)
        # Not one less the above, which rounds to nothing where a teacher is sure.
        terms += jax.nn.sigmoid(-theirs).mean(0) * jax.nn.softplus(ours)
    return terms.sum() / len(terms)


def _bias(side: Embeddings) -> Float[Array, ""] | float:
    return 0.0 if side.logit_bias is None else side.logit_bias.astype(jnp.float32)

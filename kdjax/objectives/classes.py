"""What classifiers say of their classes, against labels or a teacher's logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.divergence import log_divergences, row_divergences
from kdjax.objectives.schedules import Scalar


def bce_loss(student: Embeddings) -> Float[Array, ""]:
    """Return binary cross-entropy with soft targets, summed over classes.

    As in Teney et al. 2018 (arXiv:1708.02711) and its followers.

    Args:
        student: class_logits and class_targets [B, C], perhaps class_weights.
    """
    logits, target = _logits(student), _targets(student)
    terms = jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-abs(logits)))
    return _mean(terms.sum(-1), student.class_weights)


def hinton_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    temperature: Scalar = 4.0,
    form: str = "softmax",
) -> Float[Array, ""]:
    """Return t^2 KL(softmax(z' / t) || softmax(z / t)), z' the teacher's logits.

    Knowledge distillation of Hinton 2015 (arXiv:1503.02531).

    Args:
        student: class_logits [B, C], perhaps class_weights.
        teacher: class_logits [B, C].
        temperature: t.
        form: "softmax", or "sigmoid" where a row may have several classes: the sum over
            classes of t^2 KL of sigmoid(z' / t) and sigmoid(z / t).
    """
    ours, theirs = (_logits(side) / temperature for side in (student, teacher))
    if form == "sigmoid":
        rows = _binary_divergences(theirs, ours).sum(-1)
    else:
        rows = row_divergences(theirs, ours)
    return temperature**2 * _mean(rows, student.class_weights)


def dkd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    alpha: float = 1.0,
    beta: float = 0.5,
    temperature: Scalar = 1.0,
) -> Float[Array, ""]:
    """Return t^2 (a TCKD + b NCKD) of logits that are divided by t.

    Decoupled knowledge distillation (Zhao 2022, arXiv:2203.08679). TCKD is the
    divergence of the target class's probability from the teacher's, NCKD that of the
    softmax over all other classes. With p the teacher's probability of the target,
    KL(softmax z' || softmax z) is TCKD + (1 - p) NCKD.

    Args:
        student: class_logits and class_targets [B, C], perhaps class_weights. A row's
            target is its class of the highest score; a row without any counts nothing.
        teacher: class_logits [B, C].
        alpha: a.
        beta: b.
        temperature: t.
    """
    targets = _targets(student)
    if targets.shape[1] == 1:
        return jnp.float32(0)  # a class alone is certain, and there are no others
    is_target = jnp.arange(targets.shape[1]) == targets.argmax(axis=1)[:, None]
    labelled = targets.any(axis=1).astype(jnp.float32)
    given = student.class_weights
    weights = labelled if given is None else labelled * given
    ours, theirs = (_logits(side) / temperature for side in (student, teacher))
    of_target = _binary_divergences(*(_margins(x, is_target) for x in (theirs, ours)))
    of_others = log_divergences(*(_others(x, is_target) for x in (theirs, ours)))
    return temperature**2 * _mean(alpha * of_target + beta * of_others, weights)


def _logits(side: Embeddings) -> Float[Array, "B C"]:
    assert side.class_logits is not None
    return side.class_logits.astype(jnp.float32)


def _targets(student: Embeddings) -> Float[Array, "B C"]:
    assert student.class_targets is not None
    return student.class_targets


def _mean(
    rows: Float[Array, " B"], weights: Float[Array, " B"] | None
) -> Float[Array, ""]:
    """Return the weighted mean; 0 where no row counts."""
    weights = jnp.ones_like(rows) if weights is None else weights
    total = weights.sum()
    return (rows * (weights / jnp.where(total > 0, total, 1.0))).sum()


def _binary_divergences(
    teacher: Float[Array, "*shape"], student: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Return the divergence of each sigmoid of logits from the teacher's."""

    def part(z: Array, x: Array) -> Array:
        return jax.nn.sigmoid(z) * (jax.nn.softplus(-x) - jax.nn.softplus(-z))

    # 1 - sigmoid is that of -z, which does not round to nothing where z is large.
    return part(teacher, student) + part(-teacher, -student)


def _margins(
    logits: Float[Array, "B C"], is_target: Bool[Array, "B C"]
) -> Float[Array, " B"]:
    """Return the logit of the target class against all others together."""
    target = jnp.sum(logits, axis=1, where=is_target)
    return target - jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), axis=1)


def _others(
    logits: Float[Array, "B C"], is_target: Bool[Array, "B C"]
) -> Float[Array, "B C"]:
    """Return the log-softmax over all but the target, which is 0 on both sides."""
    others = jax.nn.log_softmax(logits, where=~is_target)
    return jnp.where(is_target, 0.0, others)

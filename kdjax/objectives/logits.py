"""The teacher's logits up to what a student need not copy: shift, scale, sharpness.

A row (or column) whose entries are all equal says nothing and costs nothing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import normalize, pair_logits, scale_of
from kdjax.objectives.divergence import row_divergences
from kdjax.objectives.schedules import Scalar

# Cosines that differ by less are equal in float32.
EQUAL = 1e-6


def dist_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: Scalar = 1.0,
    teacher_scale: str | Scalar = "calibrated",
) -> Float[Array, ""]:
    """Return t^2 (b (1 - r over rows) + g (1 - r over columns)), both ways.

    DIST (Huang 2022, arXiv:2205.10536), made for stronger teachers: r is the mean of
    Pearson's correlations of softmax(L / t) with the teacher's softmax(L' / t), both
    along the rows of the logits.

    Args:
        student: image and text [B, Ds], logit_scale.
        teacher: image and text [B, Dt], logit_scale and perhaps calibrated_scale.
        beta: b, of relations between the classes of a sample.
        gamma: g, of relations between the samples of a class.
        temperature: t.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
    """
    scales = [
        jnp.float32(scale) / temperature
        for scale in (student.logit_scale, scale_of(teacher, teacher_scale))
    ]
    ours, theirs = (
        pair_logits(side.image, side.text, scale)
        for side, scale in zip((student, teacher), scales, strict=True)
    )
    # Of a logarithm of a probability: of its cosine, and of the softmax itself.
    noises = [EQUAL * (1 + jax.lax.stop_gradient(scale)) for scale in scales]

    def one_way(*logits: Array) -> Array:
        rows = [jax.nn.log_softmax(side) for side in logits]
        columns = [side.T for side in rows]
        within, across = (_uncorrelated(sides, noises) for sides in (rows, columns))
        return beta * within + gamma * across

    return temperature**2 * (one_way(ours, theirs) + one_way(ours.T, theirs.T)) / 2


def _uncorrelated(sides: Sequence[Array], noises: Sequence[Array]) -> Float[Array, ""]:
    """Return the mean over rows of 1 - Pearson's correlation of probabilities."""
    ours, theirs = map(_deviations, sides, noises)
    # 1 - cos as the distance of unit vectors, so that a small one is exact.
    squares = jnp.sum((ours - theirs) ** 2, axis=1) / 2
    return jnp.mean(jnp.where(ours.any(1) & theirs.any(1), squares, 0.0))


def _deviations(
    logarithms: Float[Array, "B B"], noise: Float[Array, ""]
) -> Float[Array, "B B"]:
    """Return probabilities less their row's mean, rows of length one.

    Rows that vary by no more than noise are zero. As a correlation does not see
    factors and shifts, p / max p - 1 stands for p: its digits are there for a row that
    is nearly even, and for one (a column of the softmax) that is nearly zero.
    """
    largest = jax.lax.stop_gradient(jnp.max(logarithms, axis=1, keepdims=True))
    powers = jnp.expm1(logarithms - largest)
    rows = powers - jnp.mean(powers, axis=1, keepdims=True)
    sizes = jnp.sum((powers + 1) ** 2, axis=1, keepdims=True)
    varied = jnp.sum(rows**2, axis=1, keepdims=True) > noise**2 * sizes
    return normalize(jnp.where(varied, rows, 0.0))


def logit_std_loss(
    student: Embeddings, teacher: Embeddings, *, temperature: Scalar = 2.0
) -> Float[Array, ""]:
    """Return t^2 KL(softmax(z(L') / t) || softmax(z(L) / t)) both ways.

    Logit standardisation (Sun 2024, arXiv:2403.01427): z takes the mean of a row away
    and divides by its standard deviation, so that logit scales and biases drop out. The
    deviation is the paper's, over B; the released code divides by B - 1.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        temperature: t.
    """

    def one_way(ours: Array, theirs: Array) -> Array:
        ours, theirs = _standardised(ours), _standardised(theirs)
        divergences = row_divergences(theirs / temperature, ours / temperature)
        return jnp.mean(jnp.where(ours.any(1) & theirs.any(1), divergences, 0.0))

    ours, theirs = (pair_logits(x.image, x.text, 1.0) for x in (student, teacher))
    return temperature**2 * (one_way(ours, theirs) + one_way(ours.T, theirs.T)) / 2


def _standardised(cosines: Float[Array, "B B"]) -> Float[Array, "B B"]:
    """Return z-scores of rows; zeros where all of a row are equal."""
    centred = cosines - jnp.mean(cosines, axis=1, keepdims=True)
    variance = jnp.mean(centred**2, axis=1, keepdims=True)
    varied = variance > EQUAL**2
    inverse = jax.lax.rsqrt(jnp.where(varied, variance, 1.0))
    return centred * jnp.where(varied, inverse, 0.0)

"""How alike two representations are, whatever their widths, rotations and scales.

Both objectives compare images with images and texts with texts, take the mean of the
two, and are 0 where all rows of a side are alike, which leaves nothing to compare.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings

# Rows whose squared distances from their mean are a smaller part of their squared
# lengths are alike in float32.
ALIKE = 1e-12
# The same of similarities whose means are taken away, which lose more.
NOTHING_LEFT = 1e-10
# A singular value that is a smaller part of the largest is zero in float32.
RANK = 1e-6


def cka_loss(
    student: Embeddings, teacher: Embeddings, *, estimator: str = "biased"
) -> Float[Array, ""]:
    """Return 1 - <K, K'> / (|K| |K'|), K = X X^T of centred embeddings X, K' likewise.

    Linear centred kernel alignment (Kornblith 2019, arXiv:1905.00414), of embeddings
    that are not normalised. Of few rows in a wide space it is too low; the debiased
    estimator needs four rows and is 0 for fewer.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        estimator: "biased", as above; or "debiased", by the unbiased estimate of HSIC
            (Song 2012, JMLR), which leaves similarities of a row with itself out.
    """

    def distance(ours: Array, theirs: Array) -> Array:
        ours, theirs = (_similarities(x, estimator) for x in (ours, theirs))
        # 1 - cos as the distance of unit vectors, so that a small one is exact.
        squares = jnp.sum((ours - theirs) ** 2) / 2
        return jnp.where(jnp.any(ours) & jnp.any(theirs), squares, 0.0)

    image = distance(student.image, teacher.image)
    return (image + distance(student.text, teacher.text)) / 2


def _similarities(x: Float[Array, "B D"], estimator: str) -> Float[Array, "B B"]:
    """Return inner products of centred rows, centred themselves, of norm one."""
    rows = _centred(x)
    inner = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    if estimator == "biased":
        return _unit(inner, 0.0)
    size = len(x)
    if size < 4:
        return jnp.zeros_like(inner)
    # Szekely & Rizzo 2014: the estimate is an inner product of such matrices.
    others = ~jnp.eye(size, dtype=bool)
    inner = jnp.where(others, inner, 0.0)
    sums = jnp.sum(inner, axis=1)
    means = sums / (size - 2)
    mean = jnp.sum(sums) / ((size - 1) * (size - 2))
    centred = jnp.where(others, inner - means[:, None] - means + mean, 0.0)
    return _unit(centred, NOTHING_LEFT * jnp.sum(inner**2))


def procrustes_loss(student: Embeddings, teacher: Embeddings) -> Float[Array, ""]:
    """Return min over orthogonal R of |X R - Y|^2 = 2 - 2 |X^T Y|_*, the nuclear norm.

    X and Y are the embeddings, not normalised, then centred and divided by their
    Frobenius norms (Schönemann 1966). The narrower counts as padded with zeros, which
    adds zero singular values alone. The gradient is that of X at the best R, held
    fixed, which is exact by the envelope theorem; that of the singular vectors, not a
    number where singular values are equal, is never taken.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
    """

    def distance(ours: Array, theirs: Array) -> Array:
        x, y = _centred(ours), _centred(theirs)
        product = jnp.matmul(x.T, y, precision=jax.lax.Precision.HIGHEST)
        aligned = jnp.sum(product * _best_rotation(jax.lax.stop_gradient(product)))
        return jnp.where(jnp.any(x) & jnp.any(y), 2 - 2 * aligned, 0.0)

    image = distance(student.image, teacher.image)
    return (image + distance(student.text, teacher.text)) / 2


def _best_rotation(product: Float[Array, "Ds Dt"]) -> Float[Array, "Ds Dt"]:
    """Return U V^T of the singular vectors, without directions that align nothing."""
    left, values, right = jnp.linalg.svd(product, full_matrices=False)
    left = jnp.where(values > RANK * values[0], left, 0.0)
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _centred(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Return rows about their mean, of norm one as a whole; zeros where all alike."""
    x = x.astype(jnp.float32)
    # From one of the rows, so that equal ones leave no rounding error.
    moved = x - jax.lax.stop_gradient(x[:1])
    return _unit(moved - moved.mean(0), ALIKE * jnp.sum(x * x))


def _unit(x: Float[Array, "B C"], least: Array | float) -> Float[Array, "B C"]:
    """Return x of Frobenius norm one; zeros where the norm's square is `least`."""
    squares = jnp.sum(x * x)
    varied = squares > least
    inverse = jax.lax.rsqrt(jnp.where(varied, squares, 1.0))
    return x * jnp.where(varied, inverse, 0.0)

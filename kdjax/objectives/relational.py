"""What the rows of a batch are to each other: similarities, distances and angles.

Each compares images with images and texts with texts, so the widths of student and
teacher may differ; of the two modalities the mean is taken.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.blocks import Added, Layout, layout_of, over_rows
from kdjax.objectives.cosines import normalize, pair_logits
from kdjax.objectives.divergence import huber
from kdjax.objectives.pairs import Logits, PairSum, Softmax, Squares
from kdjax.objectives.schedules import Scalar

# The square of the distance at which rows of length one are alike in float32.
ALIKE = 1e-12
# In a large batch a pair whose squared distance is a smaller part of the mean one is
# one point: that is about the float32 error of a distance from inner products.
COINCIDENT = 1e-5
# Up to so many rows all triples are compared, above them so many sampled ones.
EXACT_ROWS = 256
TRIPLES = 2**18
BLOCK_TRIPLES = 2**12
ANCHORS = 16
# The smallest (1 + cos) / 2 whose logarithm float32 cosines tell apart.
LEAST_SIMILARITY = 1e-6


def similarity_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    form: str = "mse",
    temperature: Scalar = 0.07,
) -> PairSum:
    """Return how far n(I) n(I)^T is from the teacher's off the diagonal; of texts too.

    Similarity preservation (Tung 2019, arXiv:1907.09682; CompRess, Abbasi Koohpayegani
    2020, arXiv:2010.14713).

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        form: "mse", the mean squared difference over pairs; or "kl",
            KL(softmax(teacher / t) || softmax(student / t)) over the row's other
            members, averaged over rows.
        temperature: t, of the form "kl".
    """

    def among(modality: str) -> Softmax | Squares:
        rows = [getattr(side, modality) for side in (student, teacher)]
        if form == "mse":
            return Squares(*(Logits(x, x, 1.0) for x in rows))
        ours, theirs = (Logits(x, x, 1 / temperature) for x in rows)
        return Softmax(ours, (theirs,), divergence=True, others=True)

    return PairSum(((0.5, among("image")), (0.5, among("text"))))


def pkt_loss(student: Embeddings, teacher: Embeddings) -> Float[Array, ""]:
    """Return KL(teacher || student) of the row-normalised (1 + cos) / 2 of all pairs.

    Probabilistic knowledge transfer (Passalis 2018, arXiv:1803.10837), averaged over
    rows; the released code's value is B times smaller. Where all rows are alike it is
    0.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
    """

    def odds(rows: Array) -> Array:
        similarities = jnp.maximum((1 + _cosines(rows)) / 2, LEAST_SIMILARITY)
        return similarities / jnp.mean(similarities, axis=1, keepdims=True)

    def distance(ours: Array, theirs: Array) -> Array:
        p, q = odds(theirs), odds(ours)
        # Both have the same sum, so q - p adds nothing but what rounding takes away.
        divergence = jnp.mean(p * (jnp.log(p) - jnp.log(q)) + (q - p))
        alike = _alike(normalize(ours)) | _alike(normalize(theirs))
        return jnp.where(alike, 0.0, divergence)

    image = distance(student.image, teacher.image)
    return (image + distance(student.text, teacher.text)) / 2


def _cosines(rows: Float[Array, "B D"]) -> Float[Array, "B B"]:
    # Used twice, and their gradients are to meet in float32.
    rows = rows.astype(jnp.float32)
    return pair_logits(rows, rows, 1.0)


def _alike(units: Float[Array, "B D"]) -> Bool[Array, ""]:
    return jnp.mean(jnp.sum((units - units[:1]) ** 2, axis=1)) <= ALIKE


def rkd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    distance: float = 25.0,
    angle: float = 50.0,
    seed: float = 0.0,
    block_rows: int | None = None,
) -> Float[Array, ""]:
    """Return what distances and angles among a batch's rows differ from the teacher's.

    Relational distillation (Park 2019, arXiv:1904.05068) on normalised embeddings:
    a h(d_ij / mean d, d'_ij / mean d') + b h(cos_ijk, cos'_ijk), where d are distances
    of pairs, cos_ijk is the cosine of the angle at i between j and k, and h is the
    Huber loss, averaged over all B^2 pairs and B^3 triples as in the released code;
    those that repeat a member count as equal. Above 256 rows a sample of 2^18 triples
    stands for all, and of distances the two rows whose squared one is under 1e-5 of the
    mean count as one point. Where all rows are alike it is 0.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        distance: a.
        angle: b.
        seed: of the sample of triples, which is the same in every step.
        block_rows: see `layout_of`.
    """
    layout = layout_of(len(student.image), block_rows)
    few = len(student.image) <= EXACT_ROWS

    def difference(ours: Array, theirs: Array) -> Array:
        sides = [_about_mean(normalize(rows)) for rows in (ours, theirs)]
        if few:
            distances, angles = _all_differ(*sides)
        else:
            angles = _sampled_angles_differ(sides, int(seed), layout)
        if not few or not layout.dense:
            distances = _distances_differ(sides, layout)
        total = distance * distances + angle * angles
        return jnp.where(_alike(sides[0]) | _alike(sides[1]), 0.0, total)

    image = difference(student.image, teacher.image)
    return (image + difference(student.text, teacher.text)) / 2


def _about_mean(units: Float[Array, "B D"]) -> Float[Array, "B D"]:
    # Relations do not see where the origin is; near it there is less to cancel.
    return units - jax.lax.stop_gradient(units.mean(0))


class Distances(NamedTuple):
    """Distances of pairs, which are 0 where a pair is one point.

    Attributes:
        inverse: one by the distance, or 0.
        distances: not divided by their mean.
    """

    inverse: Float[Array, "..."]
    distances: Float[Array, "..."]


def _distances(
    squares: Float[Array, "..."], least: Scalar, same: Bool[Array, "..."]
) -> Distances:
    apart = (squares > least) & ~same
    inverse = jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, squares, 1.0)), 0.0)
    return Distances(inverse, squares * inverse)


def _least(rows: Float[Array, "B D"]) -> Float[Array, ""]:
    """Return the squared distance up to which two rows are one point."""
    return ALIKE + COINCIDENT * 2 * jnp.mean(jnp.sum(rows * rows, axis=1))


def _squares(
    rows: Float[Array, "b D"], columns: Float[Array, "B D"]
) -> Float[Array, "b B"]:
    inner = jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    sizes = [jnp.sum(x * x, axis=1) for x in (rows, columns)]
    return sizes[0][:, None] + sizes[1] - 2 * inner


def _distances_differ(sides: Sequence[Array], layout: Layout) -> Float[Array, ""]:
    """Return the Huber loss of distances over their means, some rows at a time."""
    count = len(sides[0])

    def distances(index: Array, rows: Any, columns: Any, least: Any) -> list[Array]:
        same = index[:, None] == jnp.arange(count)
        found = zip(map(_squares, rows, columns), least, strict=True)
        return [_distances(squares, small, same).distances for squares, small in found]

    def sums(*block: Any) -> Added:
        return Added(total=[jnp.sum(x) for x in distances(*block)])

    def differ(index: Array, rows: Any, columns: Any, scalars: Any) -> Added:
        least, means = scalars
        found = zip(distances(index, rows, columns, least), means, strict=True)
        return Added(total=jnp.sum(huber(*(x / mean for x, mean in found))))

    least = [_least(rows) for rows in sides]
    totals = over_rows(sums, sides, sides, least, layout).total
    means = [_mean_distance(total, count) for total in totals]
    return over_rows(differ, sides, sides, (least, means), layout).total / count**2


def _all_differ(
    ours: Float[Array, "B D"], theirs: Float[Array, "B D2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the Huber losses of all distances over their means, and of all angles.

    Of differences of rows, which rows that are near keep their digits in.
    """
    count = len(ours)
    others = ~jnp.eye(count, dtype=bool)

    def from_row(rows: Array, i: Array) -> tuple[Array, Array]:
        """Return the distances from a row, and the directions to all others."""
        sides = rows - rows[i]
        found = _distances(jnp.sum(sides**2, axis=1), ALIKE, ~others[i])
        return found.distances, sides * found.inverse[:, None]

    # Computed again on the way back, or all B^3 cosines would wait for it in memory.
    @jax.checkpoint
    def at(i: Array) -> tuple[Array, Array, Array]:
        (far, there), (far_too, there_too) = (from_row(x, i) for x in (ours, theirs))
        cosines = [
            jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
            for x in (there, there_too)
        ]
        return far, far_too, jnp.mean(huber(*cosines))

    *distances, angles = jax.lax.map(at, jnp.arange(count), batch_size=ANCHORS)
    over_means = [x / _mean_distance(jnp.sum(x), count) for x in distances]
    return jnp.mean(huber(*over_means)), jnp.mean(angles)


def _mean_distance(total: Float[Array, ""], count: int) -> Float[Array, ""]:
    """Return the mean over pairs of two rows; one where all distances are 0."""
    return jnp.where(total > 0, total, 1.0) / max(count * (count - 1), 1)


def _sampled_angles_differ(
    sides: Sequence[Array], seed: int, layout: Layout
) -> Float[Array, ""]:
    """Return the same of a sample of triples."""
    rng = np.random.default_rng(seed)
    size = (3, TRIPLES)
    triples = jnp.asarray(rng.integers(len(sides[0]), size=size, dtype=np.int32))

    def differ(_: Array, triples: Any, columns: Any, scalars: Any) -> Added:
        found = map(partial(_cosines_of, triples), columns)
        return Added(total=jnp.sum(huber(*found)))

    few = layout_of(TRIPLES, BLOCK_TRIPLES)
    few = few if layout.mesh is not None else replace(few, mesh=None)
    return over_rows(differ, tuple(triples), sides, (), few).total / TRIPLES


def _cosines_of(
    triples: Sequence[Array], rows: Float[Array, "B D"]
) -> Float[Array, " N"]:
    """Return the cosines of the angles at the first of each triple."""
    i, j, k = triples
    sides = [(rows[end] - rows[i], end == i) for end in (j, k)]
    inverse = [
        _distances(jnp.sum(side**2, axis=1), ALIKE, same).inverse
        for side, same in sides
    ]
    return jnp.sum(sides[0][0] * sides[1][0], axis=1) * inverse[0] * inverse[1]

"""What the rows of a batch are to each other: similarities, distances and angles.

Each compares images with images and texts with texts, so the widths of student and
teacher may differ; of the two modalities the mean is taken.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import normalize, pair_logits
from kdjax.objectives.divergence import row_divergences
from kdjax.objectives.schedules import Scalar

# The square of the distance at which rows of length one are alike in float32.
ALIKE = 1e-12
# A pair whose squared distance is a smaller part of the mean one is one point: the
# float32 error of a distance taken from inner products has about that size.
COINCIDENT = 1e-5
# Up to so many rows all triples are compared, above them so many sampled ones.
EXACT_ROWS = 256
TRIPLES = 2**18
ANCHORS = 16
# The smallest (1 + cos) / 2 whose logarithm float32 cosines tell apart.
LEAST_SIMILARITY = 1e-6
# Instead of minus infinity, whose difference with itself is not a number.
MASKED = -1e9


def similarity_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    form: str = "mse",
    temperature: Scalar = 0.07,
) -> Float[Array, ""]:
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

    def distance(ours: Array, theirs: Array) -> Array:
        ours, theirs = _cosines(ours), _cosines(theirs)
        rows = len(ours)
        diagonal = jnp.eye(rows, dtype=bool)
        if form == "mse":
            squares = jnp.where(diagonal, 0.0, (ours - theirs) ** 2)
            return jnp.sum(squares) / max(rows * (rows - 1), 1)
        masked = [jnp.where(diagonal, MASKED, x / temperature) for x in (theirs, ours)]
        return jnp.mean(row_divergences(*masked))

    image = distance(student.image, teacher.image)
    return (image + distance(student.text, teacher.text)) / 2


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
) -> Float[Array, ""]:
    """Return what distances and angles among a batch's rows differ from the teacher's.

    Relational distillation (Park 2019, arXiv:1904.05068) on normalised embeddings:
    a h(d_ij / mean d, d'_ij / mean d') + b h(cos_ijk, cos'_ijk), where d are distances
    of pairs, cos_ijk is the cosine of the angle at i between j and k, and h is the
    Huber loss, averaged over all B^2 pairs and B^3 triples as in the released code;
    those that repeat a member count as equal. Above 256 rows a sample of 2^18 triples
    stands for all. Where all rows are alike it is 0.

    Args:
        student: image and text [B, Ds].
        teacher: image and text [B, Dt].
        distance: a.
        angle: b.
        seed: of the sample of triples, which is the same in every step.
    """
    exact = len(student.image) <= EXACT_ROWS

    def difference(ours: Array, theirs: Array) -> Array:
        ours, theirs = normalize(ours), normalize(theirs)
        pairs, true_pairs = _pairs(ours), _pairs(theirs)
        total = distance * _huber(pairs.distances, true_pairs.distances)
        if exact:
            total += angle * _all_angles(pairs, true_pairs)
        else:
            total += angle * _sampled_angles(pairs, true_pairs, int(seed))
        return jnp.where(_alike(ours) | _alike(theirs), 0.0, total)

    image = difference(student.image, teacher.image)
    return (image + difference(student.text, teacher.text)) / 2


class Pairs(NamedTuple):
    """What all relations of a batch are made of.

    Attributes:
        inner: inner products of rows about their mean.
        inverse: one by the distance, 0 where a pair is one point.
        distances: divided by their mean.
    """

    inner: Float[Array, "B B"]
    inverse: Float[Array, "B B"]
    distances: Float[Array, "B B"]

    def angles_at(self, i: Array) -> Float[Array, "B B"]:
        """Return the cosines of all angles at row i."""
        sides = self.inner - self.inner[i][:, None] - self.inner[i] + self.inner[i, i]
        return sides * self.inverse[i][:, None] * self.inverse[i]

    def angles(self, i: Array, j: Array, k: Array) -> Float[Array, " N"]:
        """Return the cosines of the angles at rows i between rows j and k."""
        sides = self.inner[j, k] - self.inner[i, j] - self.inner[i, k]
        sides += self.inner[i, i]
        return sides * self.inverse[i, j] * self.inverse[i, k]


def _pairs(units: Float[Array, "B D"]) -> Pairs:
    # Relations do not see where the origin is; near it there is less to cancel.
    rows = units - jax.lax.stop_gradient(units.mean(0))
    inner = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    own = jnp.diagonal(inner)
    squares = own[:, None] + own - 2 * inner
    apart = squares > ALIKE + COINCIDENT * 2 * jnp.mean(own)
    apart &= ~jnp.eye(len(units), dtype=bool)
    inverse = jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, squares, 1.0)), 0.0)
    distances = squares * inverse
    total = jnp.sum(distances)
    mean = jnp.where(total > 0, total, 1.0) / max(len(units) * (len(units) - 1), 1)
    return Pairs(inner, inverse, distances / mean)


def _all_angles(ours: Pairs, theirs: Pairs) -> Float[Array, ""]:
    # Computed again on the way back, or all B^3 cosines would wait for it in memory.
    @jax.checkpoint
    def at(i: Array) -> Array:
        return _huber(ours.angles_at(i), theirs.angles_at(i))

    rows = jnp.arange(len(ours.inner))
    return jnp.mean(jax.lax.map(at, rows, batch_size=ANCHORS))


def _sampled_angles(ours: Pairs, theirs: Pairs, seed: int) -> Float[Array, ""]:
    rng = np.random.default_rng(seed)
    size = (3, TRIPLES)
    triples = jnp.asarray(rng.integers(len(ours.inner), size=size, dtype=np.int32))
    return _huber(ours.angles(*triples), theirs.angles(*triples))


def _huber(ours: Array, theirs: Array) -> Float[Array, ""]:
    far = jnp.abs(ours - theirs)
    return jnp.mean(jnp.where(far < 1, far**2 / 2, far - 0.5))

"""What the rows of a batch are to each other: similarities, distances and angles.

Each compares images with images and texts with texts, so the widths of student and
teacher may differ; of the two modalities the mean is taken.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import normalize, pair_logits
from kdjax.objectives.divergence import row_divergences

# The square of the distance at which rows of length one are alike in float32.
ALIKE = 1e-12
# A pair whose squared distance is a smaller part of the mean one is one point: the
# float32 error of a distance taken from inner products has about that size.
COINCIDENT = 1e-5
# Up to so many rows all triples are compared, above them so many sampled ones.
EXACT_ROWS = 256
TRIPLES = 2**18
# The smallest (1 + cos) / 2 whose logarithm float32 cosines tell apart.
LEAST_SIMILARITY = 1e-6
# Instead of minus infinity, whose difference with itself is not a number.
MASKED = -1e9


def similarity_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    form: str = "mse",
    temperature: float = 0.07,
) -> Float[Array, ""]:
    """Return how far n(I) n(I)^T is from the teacher's off the diagonal, texts alike.

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
        ours, theirs = pair_logits(ours, ours, 1.0), pair_logits(theirs, theirs, 1.0)
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

    def logarithms(rows: Array) -> Array:
        similarities = (1 + pair_logits(rows, rows, 1.0)) / 2
        return jnp.log(jnp.maximum(similarities, LEAST_SIMILARITY))

    def distance(ours: Array, theirs: Array) -> Array:
        divergences = row_divergences(logarithms(theirs), logarithms(ours))
        alike = _alike(normalize(ours)) | _alike(normalize(theirs))
        return jnp.where(alike, 0.0, jnp.mean(divergences))

    image = distance(student.image, teacher.image)
    return (image + distance(student.text, teacher.text)) / 2


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
    rows = len(student.image)
    triples = None if rows <= EXACT_ROWS else _sampled_triples(rows, int(seed))

    def difference(ours: Array, theirs: Array) -> Array:
        ours, theirs = normalize(ours), normalize(theirs)
        (spans, cosines), (true_spans, true_cosines) = (
            _relations(units, triples) for units in (ours, theirs)
        )
        total = distance * _huber(spans, true_spans)
        total += angle * _huber(cosines, true_cosines)
        return jnp.where(_alike(ours) | _alike(theirs), 0.0, total)

    image = difference(student.image, teacher.image)
    return (image + difference(student.text, teacher.text)) / 2


def _sampled_triples(rows: int, seed: int) -> Int[np.ndarray, "3 N"]:
    return np.random.default_rng(seed).integers(rows, size=(3, TRIPLES))


def _relations(
    units: Float[Array, "B D"], triples: Int[np.ndarray, "3 N"] | None
) -> tuple[Float[Array, "B B"], Array]:
    """Return distances over their mean, and cosines of the angles of triples.

    All from one matrix of inner products, so that nothing has a width beside B^2.
    """
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
    if triples is None:
        sides = inner - inner[:, :, None] - inner[:, None, :] + own[:, None, None]
        cosines = sides * inverse[:, :, None] * inverse[:, None, :]
    else:
        i, j, k = triples
        sides = inner[j, k] - inner[i, j] - inner[i, k] + own[i]
        cosines = sides * inverse[i, j] * inverse[i, k]
    return distances / mean, cosines


def _huber(ours: Array, theirs: Array) -> Float[Array, ""]:
    far = jnp.abs(ours - theirs)
    return jnp.mean(jnp.where(far < 1, far**2 / 2, far - 0.5))

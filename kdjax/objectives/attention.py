"""Where a student's patches look, as against a teacher's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.grids import is_square, patch_tokens, resampling

# Less than this of a row's attention counts as this, for it has a logarithm.
LEAST = 1e-30


def attention_loss(
    student: Embeddings, teacher: Embeddings, *, heads: str = "mean"
) -> Float[Array, ""]:
    """Return KL(the teacher's attention || the student's), the mean over queries.

    Attention transfer (Zagoruyko 2017, arXiv:1612.03928), by the divergence of MiniLM
    (Wang 2020, arXiv:2002.10957); the mean over images and pairs of layers too. The
    student's maps are resampled to the teacher's grid: of queries the rows, of keys
    what a patch gets, which is spread over as many as there are. Where both sides have
    a class token its row and column stay as they are; where one has none that of the
    other is left out. Rows sum to one again.

    Args:
        student: image_attention [pairs, B, H, M, M], of the layers of the pairs.
        teacher: image_attention [pairs, B, H', M', M'].
        heads: "mean", of the average over heads; "matched", head by head.
    """
    assert student.image_attention is not None
    assert teacher.image_attention is not None
    ours, theirs = student.image_attention, teacher.image_attention
    ours, theirs = (x.astype(jnp.float32) for x in (ours, theirs))
    if heads == "mean":
        ours, theirs = ours.mean(2), theirs.mean(2)
    both = not (is_square(ours.shape[-1]) or is_square(theirs.shape[-1]))
    ours, theirs = (x if both else patch_tokens(x, (-2, -1)) for x in (ours, theirs))
    p, q = _rows(theirs), _rows(_resampled(ours, theirs.shape[-1], both))
    logs = jnp.log(jnp.maximum(p, LEAST)) - jnp.log(jnp.maximum(q, LEAST))
    # Both sum to one, so q - p adds nothing but what rounding takes from a small KL.
    return jnp.mean(jnp.sum(p * logs + (q - p), axis=-1))


def _resampled(
    maps: Float[Array, "*B M M"], size: int, class_token: bool
) -> Float[Array, "*B N N"]:
    if maps.shape[-1] == size:
        return maps
    patches, to = maps.shape[-1] - class_token, size - class_token
    rows = resampling(patches, to)
    # One patch of a coarser grid gets what several get of a finer one.
    columns = rows * (patches / to)
    if class_token:
        rows, columns = (
            jnp.pad(x, ((1, 0), (1, 0))).at[0, 0].set(1) for x in (rows, columns)
        )
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(
        rows, jnp.matmul(maps, columns.T, precision=highest), precision=highest
    )


def _rows(maps: Float[Array, "*B M M"]) -> Float[Array, "*B M M"]:
    """Return rows that sum to one; a row of zeros stays."""
    sums = jnp.sum(maps, axis=-1, keepdims=True)
    return maps / jnp.where(sums > 0, sums, 1.0)

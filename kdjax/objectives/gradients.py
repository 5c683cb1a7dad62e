"""Gradient distillation of CLIP-KD (Yang et al. 2024, arXiv:2307.12732)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.blocks import (
    Added,
    Layout,
    column_peaks,
    layout_of,
    over_rows,
)
from kdjax.objectives.contrastive import scale_of
from kdjax.objectives.cosines import normalize
from kdjax.objectives.schedules import Scalar


def gd_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    form: str = "unit",
    teacher_scale: str | Scalar = "calibrated",
    block_rows: int | None = None,
) -> Float[Array, ""]:
    """Return the squared distance between both sides' gradients of `clip_loss`.

    Gradient distillation: with p = softmax L and q = softmax L^T, the four terms
    (p - 1) n(T), (p - 1)^T n(I), (q - 1) n(I) and (q - 1)^T n(T), where 1 is the
    identity: what the image-anchored loss says of images and of texts, then the
    text-anchored of texts and of images.

    Args:
        student: image and text [B, D], projected to the teacher's width; logit_scale.
        teacher: image and text [B, D], logit_scale and perhaps calibrated_scale.
        form: "unit", these terms, summed over the width and averaged over the batch;
            "paper", each times its scale / B, averaged over batch and width;
            "released", as the public code, in which 1 / scale is where a scale should
            be, within the softmax too.
        teacher_scale: "calibrated", "own" or a number, see `scale_of`.
        block_rows: see `layout_of`.
    """
    layout = layout_of(len(student.image), block_rows)
    ours = _clip_gradients(student, student.logit_scale, form, layout)
    theirs = _clip_gradients(teacher, scale_of(teacher, teacher_scale), form, layout)
    zero = jnp.zeros(student.image.shape, jnp.float32)
    squares = sum(((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)), zero)
    return squares.sum(-1).mean() if form == "unit" else jnp.mean(squares)


def _clip_gradients(
    side: Embeddings, scale: Scalar, form: str, layout: Layout
) -> list[Float[Array, "B D"]]:
    """Return the four terms, of p and q^T some rows at a time.

    q^T is a softmax over columns. In a block its entries are divided by a constant that
    is their sum, and the sum itself divides what has been summed over rows.
    """
    scale = jnp.asarray(scale, jnp.float32)
    scale = 1 / scale if form == "released" else scale
    image, text = normalize(side.image), normalize(side.text)

    def logits(_: Array, image: Array, columns: Any, scale: Array) -> list[Array]:
        return [scale * _product(image, columns[0].T)]

    def first(index: Array, image: Array, columns: Any, scale: Array) -> Added:
        (found,) = logits(index, image, columns, scale)
        p, q = jax.nn.softmax(found), jnp.exp(columns[1].log_softmax(found))
        sums = _product(p.T, image), _product(q.T, image), q.sum(0)
        return Added(rows=_product(p, columns[0]), columns=sums)

    def second(index: Array, image: Array, columns: Any, scale: Array) -> Added:
        (found,) = logits(index, image, columns, scale)
        q = jnp.exp(columns[1].log_softmax(found))
        return Added(rows=_product(q, columns[2]))

    (peak,) = column_peaks(logits, image, (text,), scale, layout)
    texts, (images, images_again, sums) = over_rows(
        first, image, (text, peak), scale, layout
    )[:2]
    columns = text, peak, text / sums[:, None]
    texts_again = over_rows(second, image, columns, scale, layout).rows
    factor = 1.0 if form == "unit" else scale / len(image)
    return [
        factor * (texts - text),
        factor * (images - image),
        factor * (images_again / sums[:, None] - image),
        factor * (texts_again - text),
    ]


def _product(a: Float[Array, "N K"], b: Float[Array, "K M"]) -> Float[Array, "N M"]:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

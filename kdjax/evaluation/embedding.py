"""What a CLIP model sees in many images and reads in many texts."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from kdjax.models import CLIP, CLIPConfig, Params, graph_of
from kdjax.models.clip import preprocess

BATCH = 100


@functools.partial(jax.jit, static_argnames="config")
def _image_embeddings(
    params: Params, images: UInt8[Array, "B H W 3"], *, config: CLIPConfig
) -> Float[Array, "B D"]:
    clip = nnx.merge(graph_of(CLIP, config), params)
    return clip.encode_image(preprocess(images, config.vision))


@functools.partial(jax.jit, static_argnames="config")
def _text_embeddings(
    params: Params, input_ids: Int[Array, "B L"], *, config: CLIPConfig
) -> Float[Array, "B D"]:
    return nnx.merge(graph_of(CLIP, config), params).encode_text(input_ids)


def embed_images(
    params: Params, images: UInt8[np.ndarray, "N H W 3"], *, config: CLIPConfig
) -> Float[np.ndarray, "N D"]:
    """Embed images, not normalised."""
    return in_batches(
        functools.partial(_image_embeddings, config=config), params, images
    )


def embed_texts(
    params: Params, input_ids: Int[np.ndarray, "N L"], *, config: CLIPConfig
) -> Float[np.ndarray, "N D"]:
    """Embed token ids, not normalised."""
    return in_batches(
        functools.partial(_text_embeddings, config=config), params, input_ids
    )


def in_batches(
    embed: Callable[..., Array], params: Params, rows: np.ndarray
) -> Float[np.ndarray, "N ..."]:
    """Apply a jitted function in batches of one size, so that it compiles once."""
    missing = -len(rows) % BATCH
    whole = np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])
    parts = [
        jax.device_get(embed(params, part))
        for part in np.split(whole, len(whole) // BATCH)
    ]
    return np.concatenate(parts)[: len(rows)]

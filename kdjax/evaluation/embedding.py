"""What a CLIP model sees in many images and reads in many texts."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from kdjax.data.loader import Images
from kdjax.embeddings import Wanted
from kdjax.hosts import beside, whole
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
    params: Params,
    images: UInt8[np.ndarray, "N H W 3"] | Images,
    *,
    config: CLIPConfig,
) -> Float[np.ndarray, "N D"]:
    """Embed images, not normalised."""
    return in_batches(
        functools.partial(_image_embeddings, config=config), params, images
    )


@functools.partial(jax.jit, static_argnames=("config", "wanted"))
def _image_fields(
    params: Params,
    images: UInt8[Array, "B H W 3"],
    *,
    config: CLIPConfig,
    wanted: Wanted,
) -> dict[str, Array]:
    clip = nnx.merge(graph_of(CLIP, config), params)
    seen = clip.see(preprocess(images, config.vision), wanted)
    return {
        field: jnp.swapaxes(seen[field], 0, 1) if layers else seen[field]
        for field, layers in wanted
    }


def bytes_of_image(params: Params, *, config: CLIPConfig, wanted: Wanted) -> int:
    """Return what `see_images` gives for each image, in bytes."""
    shapes = jax.tree.leaves(shapes_of_images(params, 1, config=config, wanted=wanted))
    return sum(x.size * x.dtype.itemsize for x in shapes)


def shapes_of_images(
    params: Params, count: int, *, config: CLIPConfig, wanted: Wanted
) -> dict[str, Any]:
    """Return the shapes of what `see_images` gives for so many images."""
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct((count, size, size, 3), np.uint8)
    see = functools.partial(_image_fields, config=config, wanted=wanted)
    return jax.eval_shape(see, params, images)


def see_images(
    params: Params,
    images: UInt8[np.ndarray, "N H W 3"] | Images,
    *,
    config: CLIPConfig,
    wanted: Wanted,
) -> dict[str, np.ndarray]:
    """Return fields of images' `Embeddings`; images come before layers.

    Args:
        params: of the model.
        images: to look at.
        config: of the model.
        wanted: such as (("image", ()), ("image_hidden", (3, 7))), layers from 0.
    """
    see = functools.partial(_image_fields, config=config, wanted=wanted)
    return in_batches(see, params, images)


def embed_texts(
    params: Params, input_ids: Int[np.ndarray, "N L"], *, config: CLIPConfig
) -> Float[np.ndarray, "N D"]:
    """Embed token ids, not normalised."""
    return in_batches(
        functools.partial(_text_embeddings, config=config), params, input_ids
    )


def in_batches(
    embed: Callable[..., Any], params: Params, rows: np.ndarray | Images
) -> Any:
    """Apply a jitted function in batches of one size, so that it compiles once.

    Of images that are read when it is their turn, a batch at a time is in memory.
    """
    first = rows[:1]
    batch = jax.ShapeDtypeStruct((BATCH, *first.shape[1:]), first.dtype)
    results = jax.tree.map(
        lambda x: np.empty((len(rows), *x.shape[1:]), x.dtype),
        jax.eval_shape(embed, params, batch),
    )
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        count = len(part)
        if count < BATCH:
            part = np.concatenate([part, np.repeat(part[:1], BATCH - count, axis=0)])
        found = jax.device_get(whole(embed(params, beside(params, part))))
        for all_rows, some in zip(*map(jax.tree.leaves, (results, found)), strict=True):
            all_rows[start : start + count] = some[:count]
    return results

"""Zero-shot classification: the class whose caption is nearest to the image."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from kdjax.models import CLIP, CLIPConfig, graph_of
from kdjax.models.clip import preprocess
from kdjax.training.tasks import Params

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
    return _in_batches(
        functools.partial(_image_embeddings, config=config), params, images
    )


def embed_texts(
    params: Params, input_ids: Int[np.ndarray, "N L"], *, config: CLIPConfig
) -> Float[np.ndarray, "N D"]:
    """Embed token ids, not normalised."""
    return _in_batches(
        functools.partial(_text_embeddings, config=config), params, input_ids
    )


def _in_batches(
    embed: Callable[..., Array], params: Params, rows: np.ndarray
) -> Float[np.ndarray, "N D"]:
    """Apply a jitted function in batches of one size, so that it compiles once."""
    missing = -len(rows) % BATCH
    whole = np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])
    parts = [embed(params, part) for part in np.split(whole, len(whole) // BATCH)]
    return np.concatenate(jax.device_get(parts))[: len(rows)]


def zero_shot_accuracy(
    params: Params,
    config: CLIPConfig,
    batches: Iterable[dict[str, Any]],
    prompts: Int[np.ndarray, "classes L"],
) -> float:
    """Return the top-1 accuracy in percent over the images whose class is known.

    Args:
        params: of the CLIP model.
        config: of the CLIP model.
        batches: with "image", "label" (-1 where unknown) and "mask".
        prompts: token ids of one caption per class.
    """
    classes = embed_texts(params, prompts, config=config)
    classes = classes / np.linalg.norm(classes, axis=1, keepdims=True)
    right = known = 0
    for batch in batches:
        images = embed_images(params, batch["image"], config=config)
        nearest = np.argmax(images @ classes.T, axis=1)
        counted = batch["mask"] & (batch["label"] >= 0)
        known += int(counted.sum())
        right += int((nearest == batch["label"])[counted].sum())
    return 100.0 * right / max(known, 1)

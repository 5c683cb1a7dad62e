"""Zero-shot classification: the class whose caption is nearest to the image."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from kdjax.models import CLIP, CLIPConfig
from kdjax.models.clip import l2_normalize, preprocess
from kdjax.training.tasks import Params, graph_of


@functools.partial(jax.jit, static_argnames="config")
def embed_images(
    params: Params, images: Array, *, config: CLIPConfig
) -> Float[Array, "B D"]:
    """Embed uint8 images [B, H, W, 3], normalised."""
    clip = nnx.merge(graph_of(CLIP, config), params)
    return l2_normalize(clip.encode_image(preprocess(images, config.vision)))


@functools.partial(jax.jit, static_argnames="config")
def embed_texts(
    params: Params, input_ids: Int[Array, "B L"], *, config: CLIPConfig
) -> Float[Array, "B D"]:
    """Embed token ids, normalised."""
    clip = nnx.merge(graph_of(CLIP, config), params)
    return l2_normalize(clip.encode_text(input_ids))


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
    classes = embed_texts(params, jnp.asarray(prompts), config=config)
    right = known = 0
    for batch in batches:
        images = embed_images(params, jnp.asarray(batch["image"]), config=config)
        nearest = np.asarray(jnp.argmax(images @ classes.T, axis=1))
        counted = batch["mask"] & (batch["label"] >= 0)
        known += int(counted.sum())
        right += int((nearest == batch["label"])[counted].sum())
    return 100.0 * right / max(known, 1)

"""Models as small as they can be, for tests of them and of what is made of them."""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from kdjax.models import CLIPConfig, TextConfig, VisionConfig

VISION = VisionConfig(
    image_size=8,
    patch_size=4,
    width=8,
    layers=2,
    num_heads=2,
    mlp_width=16,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
)
TEXT = TextConfig(
    vocab_size=20,
    context_length=6,
    eos_id=19,
    width=8,
    layers=2,
    num_heads=2,
    mlp_width=16,
)


def clip_config(*, vision=None, text=None, **changes):
    """Return the config with changes to a tower or to what joins them."""
    return CLIPConfig(
        vision=replace(VISION, **(vision or {})),
        text=replace(TEXT, **(text or {})),
        **{"embed_dim": 6, **changes},
    )


def drawn(build: Callable[[], nnx.Module], seed: int = 0) -> nnx.Module:
    """Return a module of random parameters: none is zero, as biases are at first."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(seed)
    parameters = traverse_util.flatten_dict(nnx.to_pure_dict(state))
    for path, x in parameters.items():
        middle = {"scale": 1.0, "logit_scale": 2.0}.get(path[-1], 0.0)
        values = middle + 0.4 * rng.normal(size=x.shape)
        parameters[path] = jnp.asarray(values, x.dtype)
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(parameters))
    return nnx.merge(graph, state)


def images(rng, count, size=8):
    """Return random uint8 images whose colours differ."""
    colour = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(0, 256, (count, size, size, 3))
    return ((2 * colour + noise) // 3).astype(np.uint8)


def texts(rng, count, text=TEXT):
    """Return random ids of any length that end with `eos_id` and zeros."""
    ids = np.zeros((count, text.context_length), np.int32)
    for row in ids:
        end = rng.integers(1, text.context_length)
        row[:end] = rng.integers(3, text.eos_id, end)
        row[end] = text.eos_id
    return ids


def normalised(images, vision=VISION):
    """Return uint8 images of a tower's own size as it takes them, by NumPy."""
    return jnp.asarray((images / 255 - vision.mean) / vision.std, jnp.float32)

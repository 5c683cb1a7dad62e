"""From a published checkpoint to a CLIP model."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from kdjax.errors import UserError
from kdjax.hub import ABOUT, find_model
from kdjax.models import CLIP, CLIPConfig, abstract_of, graph_of
from kdjax.parallel import SPLIT, parameter_shardings
from kdjax.preprocessing import image_settings
from kdjax.weights.files import MSGPACK, open_tensors
from kdjax.weights.layouts import Layout, layout_of
from kdjax.weights.rules import (
    Path,
    Place,
    check_tensors,
    leaf_of,
    shapes_of_theirs,
    to_ours,
)

# Tensors that old checkpoints hold and that say nothing.
CONSTANT = ("position_ids", "attn_mask")
DTYPES = ("float32", "bfloat16", "float16")
POSITIONS: Path = ("vision", "position_embedding")


def load_clip(
    name_or_directory: str,
    *,
    dtype: str = "float32",
    param_dtype: str = "float32",
    image_size: int | None = None,
    revision: str | None = None,
    mesh: Mesh | None = None,
    over: Sequence[str] = SPLIT,
) -> CLIP:
    """Return a CLIP or SigLIP model from a directory or from the hub.

    Read are Hugging Face's layout (safetensors, whole or sharded, or Flax msgpack) and
    OpenCLIP's (safetensors). Only the config and the weights are needed.

    Args:
        name_or_directory: a local directory, one in a bucket, or a name on the hub.
        dtype: in which the model computes.
        param_dtype: in which its parameters are held.
        image_size: side in pixels of the images that it will see; position embeddings
            are interpolated where it is not the checkpoint's.
        revision: branch, tag or commit on the hub.
        mesh: where the parameters go, each device getting only its shards; None for
            JAX's default device.
        over: axes of the mesh over which parameters are split; the rest have copies.

    Raises:
        UserError: a file is missing or damaged, the model is of another family, the
            weights do not fit the config, or there is no such dtype or size.
    """
    _check_dtypes(dtype, param_dtype)
    path = _find(name_or_directory, revision)
    layout, values = layout_of(path)
    found = replace(
        _read_config(path, layout, values), dtype=dtype, param_dtype=param_dtype
    )
    config = found if image_size is None else _seeing(found, image_size)
    abstract = nnx.to_pure_dict(abstract_of(CLIP, found))
    rules = layout.rules(found)
    place = _resized(_placing(config, mesh, over), found, config)
    try:
        with open_tensors(path, layout.stem) as tensors:
            given = {
                name: shape
                for name, shape in tensors.shapes.items()
                if name.rpartition(".")[2] not in CONSTANT
            }
            check_tensors(given, shapes_of_theirs(rules, abstract))
            params = to_ours(tensors.read, rules, abstract, place)
    except UserError as error:
        raise UserError(f"{name_or_directory}: {error}") from error
    return nnx.merge(graph_of(CLIP, config), params)


def clip_config(directory: str) -> CLIPConfig:
    """Return the config of a checkpoint in a local directory, and nothing of weights.

    Raises:
        UserError: there is none, or it is of another family.
    """
    path = epath.Path(directory)
    return _read_config(path, *layout_of(path))


def _check_dtypes(*names: str) -> None:
    """Check that models can compute, or be held, in these.

    Raises:
        UserError: one is another.
    """
    for name in names:
        if name not in DTYPES:
            raise UserError(f"the dtype {name!r} is none of {', '.join(DTYPES)}")


def _seeing(config: CLIPConfig, image_size: int) -> CLIPConfig:
    """Return the config of a model that sees images of another size."""
    return replace(config, vision=replace(config.vision, image_size=image_size))


def _find(name: str, revision: str | None) -> epath.Path:
    """Return a model's directory; from the hub only those weights that will be read."""
    path = find_model(name, ABOUT, revision)
    layout, _ = layout_of(path)
    weights = (f"{layout.stem}.safetensors", f"{layout.stem}-*.safetensors", MSGPACK)
    # Also where there are some already: a download may have been interrupted.
    for wanted in (weights[:2], weights[2:]):
        path = find_model(name, (*ABOUT, *wanted), revision)
        if any(p for pattern in wanted for p in path.glob(pattern)):
            break
    return path


def _read_config(
    path: epath.Path, layout: Layout, values: Mapping[str, Any]
) -> CLIPConfig:
    preprocessor: Mapping[str, Any] = {}
    with suppress(UserError):  # a damaged one is a processor's business
        preprocessor = image_settings(path) or {}
    try:
        return layout.read(values, preprocessor)
    except UserError as error:
        raise UserError(f"{path / layout.config_file}: {error}") from error
    # What a damaged config makes of the library's own is of many kinds.
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{path / layout.config_file} cannot be understood ({said}): fetch it again"
        ) from error


def _placing(config: CLIPConfig, mesh: Mesh | None, over: Sequence[str]) -> Place:
    """Return what puts a parameter on the mesh, or on the default device."""
    if mesh is None:
        return lambda path, value: jnp.asarray(value)
    shardings = parameter_shardings(abstract_of(CLIP, config), mesh, over)

    def place(path: Path, value: np.ndarray) -> jax.Array:
        sharding = leaf_of(shardings, path)
        return jax.make_array_from_callback(
            value.shape, sharding, lambda index: value[index]
        )

    return place


def _resized(place: Place, found: CLIPConfig, config: CLIPConfig) -> Place:
    """Return `place` with position embeddings fitted to another image size."""
    if found.vision.num_patches == config.vision.num_patches:
        return place
    sides = [c.vision.image_size // c.vision.patch_size for c in (found, config)]

    def resize(path: Path, value: np.ndarray) -> jax.Array:
        if path == POSITIONS:
            kept = int(config.vision.class_token)
            value = np.concatenate(
                [value[:kept], resize_positions(value[kept:], sides[0], sides[1])]
            )
        return place(path, value)

    return resize


def resize_positions(
    positions: Float[np.ndarray, "N W"], side: int, new_side: int
) -> Float[np.ndarray, "M W"]:
    """Return the position embeddings of another grid of patches, without class token.

    Bicubic (Keys, a = -1/2) and antialiased, as OpenCLIP does.
    """
    grid = jnp.asarray(positions, jnp.float32).reshape(side, side, -1)
    shape = (new_side, new_side, grid.shape[-1])
    resized = jax.image.resize(grid, shape, "cubic", antialias=True)
    return np.asarray(resized.reshape(new_side**2, -1), positions.dtype)

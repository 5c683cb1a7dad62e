"""From a teacher to a smaller model whose weights are a selection of its weights."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Int

from kdjax.errors import UserError
from kdjax.hosts import whole
from kdjax.models import (
    CLIP,
    TOWERS,
    CLIPConfig,
    TextConfig,
    VisionConfig,
    abstract_of,
    graph_of,
)
from kdjax.weights.loading import POSITIONS, resize_positions
from kdjax.weights.rules import Path

# A student may have less of these than its teacher.
SIZES = ("width", "layers", "mlp_width", "context_length", "embed_dim")
COMPUTE = ("attention", "remat", "dtype", "param_dtype")
# These may differ: positions are resized, and the weight itself is the teacher's.
FREE = ("image_size", "logit_scale_init", *COMPUTE)
# What a student keeps of its own where its structure is the teacher's.
KEPT = (*SIZES, "num_heads", "patch_size", "image_size", *COMPUTE)

# What a linear layer reads and writes.
LINEAR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "patch_embedding": (("pixel",), ("channel",)),
    "token_embedding": (("token",), ("channel",)),
    "query": (("channel",), ("head", "lane")),
    "key": (("channel",), ("head", "lane")),
    "value": (("channel",), ("head", "lane")),
    "out": (("head", "lane"), ("channel",)),
    "up": (("channel",), ("unit",)),
    "down": (("unit",), ("channel",)),
    "visual_projection": (("channel",), ("joint",)),
    "text_projection": (("channel",), ("joint",)),
}

Tower = TypeVar("Tower", VisionConfig, TextConfig)
Leaves = dict[Path, np.ndarray]
# Which of the teacher's a student gets: [n], or [layers, n] where layers differ.
Chosen = Callable[[str], Int[np.ndarray, "..."]]


def inherit(teacher: CLIP, config: CLIPConfig, *, by: str) -> CLIP:
    """Return a model of `config` whose parameters are a selection of the teacher's.

    As TinyCLIP's manual inheritance does (Wu et al. 2023, arXiv:2309.12314), it gets

    - of `n` layers `m`, the i-th of which is the teacher's floor(i n / m);
    - one set of residual channels in each tower, and of dimensions of the joint space
      in both (where there is no visual projection, these are the vision channels);
    - whole attention heads and units of the MLP, in each layer and in the pool its own;
    - the first positions of texts, and those of images resized as `load_clip` does;
    - all tokens, and the logit scale and bias.

    By "index" these are the first ones. By "magnitude" they are, in the teacher's
    order, those of the largest L2 norm over all weights that write to or read from
    them: for channel, head, unit or dimension i

        s_i = sqrt(sum of w^2 over all entries w whose index on such an axis is i)

    where kernels, biases, norms and embeddings of the chosen layers count: those of a
    tower and its projection for its channels, of both projections for the joint space,
    of one layer for its heads and units. Of equal ones the first go first.

    Args:
        teacher: the larger model.
        config: of the student; `with_structure_of` makes one that fits.
        by: "index" or "magnitude".

    Raises:
        UserError: an unknown `by`, or a config that cannot inherit; all that does not
            fit is listed.
    """
    if by not in ("index", "magnitude"):
        raise UserError(f"weights are not inherited by {by!r}; give index or magnitude")
    check_heir(config, teacher.config)
    leaves = _split_heads(_some_layers(teacher, config), teacher.config)
    chosen = _first(config) if by == "index" else _largest(leaves, config)
    wanted = flatten_dict(nnx.to_pure_dict(abstract_of(CLIP, config)))
    params = {}
    for path, value in leaves.items():
        value = _some_positions(path, value, teacher.config, config)
        value = _select(value, _axes(path), _groups(path, config), chosen)
        shape, dtype = wanted[path].shape, wanted[path].dtype
        params[path] = jnp.array(value.reshape(shape), dtype)
    return nnx.merge(graph_of(CLIP, config), unflatten_dict(params))


def with_structure_of(config: CLIPConfig, teacher: CLIPConfig) -> CLIPConfig:
    """Return the config with its own sizes and, for the rest, the teacher's structure.

    Its own are width, depth, heads, MLP, patches, the images' size and the joint space
    (without a visual projection that is the vision channels); vocabulary, activations,
    pooling, norms, biases and the images' normalisation are the teacher's, for which
    its weights were learnt. Texts are at most as long as the teacher's.
    """
    text = _sizes_of(config.text, teacher.text)
    length = min(text.context_length, teacher.text.context_length)
    joint = config.embed_dim if teacher.visual_projection else config.vision.width
    return dataclasses.replace(
        teacher,
        vision=_sizes_of(config.vision, teacher.vision),
        text=dataclasses.replace(text, context_length=length),
        embed_dim=joint,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
    )


def _sizes_of(tower: Tower, teacher: Tower) -> Tower:
    """Return a teacher's tower with what a student keeps of its own."""
    kept = {key: getattr(tower, key) for key in KEPT if hasattr(tower, key)}
    return dataclasses.replace(teacher, **kept)


def check_heir(config: CLIPConfig, teacher: CLIPConfig) -> None:
    """Check that a model's weights can be some of a teacher's.

    Raises:
        UserError: they cannot; all that does not fit is listed.
    """
    if found := list(_misfits(config, teacher)):
        raise UserError(
            f"the student cannot inherit its teacher's weights: {'; '.join(found)}; "
            "choose a student that is no larger and built alike"
        )


def _misfits(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    for field in dataclasses.fields(ours):
        name, key = field.name, f"{where}{field.name}"
        here, there = getattr(ours, name), getattr(theirs, name)
        if dataclasses.is_dataclass(here):
            yield from _misfits(here, there, f"{key}.")
        elif name in SIZES:
            if here > there:
                yield f"{key} {here} is more than the teacher's {there}"
        elif name == "num_heads":
            widths = ours.width // here, theirs.width // there
            if widths[0] != widths[1]:
                yield f"{where}head width {widths[0]} is not the teacher's {widths[1]}"
        elif name == "logit_bias_init":
            if (here is None) != (there is None):
                yield f"{key} {here} is not the teacher's {there}"
        elif name not in FREE and here != there:
            yield f"{key} {here!r} is not the teacher's {there!r}"


def _tower(path: Path) -> str:
    return "vision" if path[0] in TOWERS["vision"] else "text"


def _axes(path: Path) -> tuple[str, ...]:
    """Return what each axis of a parameter counts, its heads apart from their lanes."""
    if path[-1] in ("logit_scale", "logit_bias"):
        return ()
    front = ("layer",) if "blocks" in path else ()
    reads, writes = LINEAR.get(path[-2], ((), ("channel",)))
    if path[-1] in ("kernel", "embedding"):
        return (*front, *reads, *writes)
    if path[-1] == "position_embedding":
        return ("position", "channel")
    return (*front, *writes)


def _groups(path: Path, config: CLIPConfig) -> tuple[str | None, ...]:
    """Return which choice each axis of a parameter follows; None where it is whole."""
    tower = _tower(path)
    place = "pool" if "pool" in path else "blocks"
    joint = "joint" if config.visual_projection else "vision.channel"
    names = {
        "channel": f"{tower}.channel",
        "joint": joint,
        "head": f"{tower}.{place}.head",
        "unit": f"{tower}.{place}.unit",
    }
    return tuple(names.get(axis) for axis in _axes(path))


def _counts(config: CLIPConfig) -> dict[str, int]:
    """Return how many a student gets of each choice."""
    counts = {"joint": config.embed_dim}
    for name, tower in (("vision", config.vision), ("text", config.text)):
        counts[f"{name}.channel"] = tower.width
        for place in ("blocks", "pool"):
            counts[f"{name}.{place}.head"] = tower.num_heads
            counts[f"{name}.{place}.unit"] = tower.mlp_width
    return counts


def _some_layers(teacher: CLIP, config: CLIPConfig) -> Leaves:
    """Return the teacher's parameters of layers at even distances."""
    leaves = {}
    params = whole(nnx.to_pure_dict(nnx.state(teacher)))
    for path, value in flatten_dict(params).items():
        value = np.asarray(value)
        if "blocks" in path:
            few = getattr(config, _tower(path)).layers
            value = value[np.arange(few) * len(value) // few]
        leaves[path] = value
    return leaves


def _split_heads(leaves: Leaves, config: CLIPConfig) -> Leaves:
    """Return the parameters with an axis of heads and one of each head's lanes."""
    split = {}
    for path, value in leaves.items():
        if "head" in (axes := _axes(path)):
            place = axes.index("head")
            heads = getattr(config, _tower(path)).num_heads
            before, after = value.shape[:place], value.shape[place + 1 :]
            value = value.reshape(*before, heads, -1, *after)
        split[path] = value
    return split


def _first(config: CLIPConfig) -> Chosen:
    counts = _counts(config)
    return lambda group: np.arange(counts[group])


def _largest(leaves: Leaves, config: CLIPConfig) -> Chosen:
    """Return the choice of the largest norms, in the teacher's order."""
    counts = _counts(config)
    chosen = {
        group: np.sort(np.argsort(-square, kind="stable")[..., : counts[group]])
        for group, square in _squared_norms(leaves, config).items()
    }
    return chosen.__getitem__


def _squared_norms(
    leaves: Leaves, config: CLIPConfig
) -> Mapping[str, Float[np.ndarray, "..."]]:
    """Return s^2 of all that can be chosen, [n] or, of a layer's own, [layers, n]."""
    squares: dict[str, Any] = {}
    for path, value in leaves.items():
        for place, group in enumerate(_groups(path, config)):
            if group is None:
                continue
            kept = {place} | ({0} if ".blocks." in group else set())
            others = tuple(i for i in range(value.ndim) if i not in kept)
            square = np.square(value, dtype=np.float64).sum(others)
            squares[group] = squares.get(group, 0) + square
    return squares


def _some_positions(
    path: Path, value: np.ndarray, teacher: CLIPConfig, config: CLIPConfig
) -> np.ndarray:
    """Return the positions of shorter texts and of images of another size."""
    if path == ("text", "position_embedding"):
        return value[: config.text.context_length]
    sides = [c.vision.image_size // c.vision.patch_size for c in (teacher, config)]
    if path != POSITIONS or sides[0] == sides[1]:
        return value
    kept = int(config.vision.class_token)
    resized = resize_positions(value[kept:], sides[0], sides[1])
    return np.concatenate([value[:kept], resized])


def _select(
    value: np.ndarray,
    axes: tuple[str, ...],
    groups: tuple[str | None, ...],
    chosen: Chosen,
) -> np.ndarray:
    """Return what is chosen of a parameter on each of its axes."""
    for place, group in enumerate(groups):
        if group is None:
            continue
        index = chosen(group)
        if index.ndim == 1:
            value = np.take(value, index, place)
        else:
            shape = [1] * value.ndim
            shape[0], shape[place] = index.shape
            value = np.take_along_axis(value, index.reshape(shape), place)
    return value

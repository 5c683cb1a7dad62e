"""Which weights belong to a channel, a head, a unit or a dimension of the joint space.

Written name by name, for an oracle that shares no code with the library: every block of
a stack is a parameter of its own here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from kdjax.models import CLIP, CLIPConfig

BLOCKS = "/transformer/blocks/"
READS = ("attention/query", "attention/key", "attention/value", "mlp/up")
VECTORS = {
    "vision": (
        *("vision/patch_embedding/bias", "vision/class_embedding"),
        *("vision/pre_norm/scale", "vision/pre_norm/bias", "vision/post_norm/scale"),
        *("vision/post_norm/bias", "vision/pool/query", "vision/pool/norm/scale"),
        "vision/pool/norm/bias",
    ),
    "text": ("text/final_norm/scale", "text/final_norm/bias"),
}
TABLES = {
    "vision": ("vision/patch_embedding/kernel", "vision/position_embedding"),
    "text": ("text/token_embedding/embedding", "text/position_embedding"),
}
PROJECTIONS = {"vision": "visual_projection/kernel", "text": "text_projection/kernel"}
JOINT = {
    "visual_projection/kernel": 1,
    "text_projection/kernel": 1,
    "text_projection/bias": 0,
}
NORMS = [f"{n}_norm/{x}" for n in ("attention", "mlp") for x in ("scale", "bias")]
CHANNEL = {
    **dict.fromkeys(NORMS, 0),
    **{f"{layer}/kernel": 0 for layer in READS},
    "attention/out/kernel": 1,
    "attention/out/bias": 0,
    "mlp/down/kernel": 1,
    "mlp/down/bias": 0,
}
HEAD = {
    **{f"{layer}/kernel": 1 for layer in READS[:3]},
    **{f"{layer}/bias": 0 for layer in READS[:3]},
    "attention/out/kernel": 0,
}
UNIT = {"mlp/up/kernel": 1, "mlp/up/bias": 0, "mlp/down/kernel": 0}


class Group(NamedTuple):
    """What is chosen together: `count` parts of `size` rows on the axes of `places`."""

    places: dict[str, int]
    count: int
    size: int = 1


def flat(clip: CLIP) -> dict[str, np.ndarray]:
    params = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(clip)), sep="/")
    return {name: np.asarray(x) for name, x in params.items()}


def apart(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every block's parameters by themselves."""
    found = {}
    for name, x in params.items():
        tower, stacked, rest = name.partition(BLOCKS)
        if stacked:
            found |= {f"{tower}{BLOCKS}{i}/{rest}": one for i, one in enumerate(x)}
        else:
            found[name] = x
    return found


def together(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `apart`."""
    found, stacks = {}, {}
    for name, x in params.items():
        tower, stacked, rest = name.partition(BLOCKS)
        if stacked:
            stacks.setdefault(f"{tower}{BLOCKS}{rest.partition('/')[2]}", []).append(x)
        else:
            found[name] = x
    return found | {name: np.stack(blocks) for name, blocks in stacks.items()}


def groups(config: CLIPConfig) -> Iterator[Group]:
    """All that is chosen of a model that is as large as the config says."""
    for tower in ("vision", "text"):
        sizes = getattr(config, tower)
        blocks = [f"{tower}{BLOCKS}{i}/" for i in range(sizes.layers)]
        if tower == "vision" and config.vision.pooling == "attention":
            blocks.append("vision/pool/")
        channel = dict.fromkeys(VECTORS[tower], 0) | dict.fromkeys(TABLES[tower], 1)
        channel |= {PROJECTIONS[tower]: 0}
        channel |= {
            f"{block}{n}": axis for block in blocks for n, axis in CHANNEL.items()
        }
        if tower == "vision" and not config.visual_projection:
            channel |= JOINT
        yield Group(channel, sizes.width)
        for block in blocks:
            lanes = sizes.width // sizes.num_heads
            head, unit = (
                {f"{block}{n}": x for n, x in t.items()} for t in (HEAD, UNIT)
            )
            yield Group(head, sizes.num_heads, lanes)
            yield Group(unit, sizes.mlp_width)
    if config.visual_projection:
        yield Group(JOINT, config.embed_dim)


def take(params: dict[str, np.ndarray], group: Group, parts: list[int]) -> None:
    """Keep those parts of a group's parameters, in that order."""
    rows = [group.size * part + row for part in parts for row in range(group.size)]
    for name, axis in group.places.items():
        if name in params:
            params[name] = np.take(params[name], rows, axis)


def norms(params: dict[str, np.ndarray], group: Group) -> np.ndarray:
    """The L2 norm over all weights of each part, in float64."""
    squares = 0.0
    for name, axis in group.places.items():
        if name in params:
            rows = np.moveaxis(params[name].astype(float), axis, 0)
            squares = squares + (rows.reshape(len(rows) // group.size, -1) ** 2).sum(1)
    return np.sqrt(squares)


def by_magnitude(teacher: CLIP, config: CLIPConfig) -> dict[str, np.ndarray]:
    """The student's parameters, from the formula."""
    params = flat(teacher)
    for name, x in params.items():
        if BLOCKS in name:
            few = getattr(config, name.split("/")[0]).layers
            params[name] = x[[i * len(x) // few for i in range(few)]]
    measured = apart(params)
    params = dict(measured)
    for group in groups(config):
        sizes = norms(measured, group)
        best = sorted(range(len(sizes)), key=lambda i: -sizes[i])[: group.count]
        take(params, group, sorted(best))
    return together(params)


def shuffled(teacher: CLIP, seed: int) -> CLIP:
    """The same function with its channels, heads, units and dimensions in disorder."""
    rng = np.random.default_rng(seed)
    params = apart(flat(teacher))
    for group in groups(teacher.config):
        take(params, group, rng.permutation(group.count).tolist())
    nested = traverse_util.unflatten_dict(together(params), sep="/")
    return nnx.merge(nnx.graphdef(teacher), jax.tree.map(jnp.asarray, nested))

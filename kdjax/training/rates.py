"""How fast each parameter moves: factors on the learning rate, by pattern and layer.

A parameter is named by its path, "vision/transformer/blocks/mlp/up/kernel"; those that
objectives learn begin with "objective/". A pattern is a shell's, and stands for all
paths that begin with what it matches: "text" is the text tower and its projection,
"text/" the tower alone, "*/bias" every bias.
"""

import difflib
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np

from kdjax.errors import UserError
from kdjax.models import TOWERS

# Patterns of parameters, each with its factor.
Rates = tuple[tuple[str, float], ...]
# What of a tower lies below its blocks.
BOTTOM = (
    "class_embedding",
    "patch_embedding",
    "position_embedding",
    "token_embedding",
    "pre_norm",
)


def name_of(path: Any) -> str:
    """Return the name of the parameter at a path of a task's parameters."""
    named = jax.tree_util.keystr(path, simple=True, separator="/")
    return named.removeprefix("model/")


def is_stacked(name: str) -> bool:
    """Return whether a parameter is that of all layers, along its first axis."""
    first, *below = name.split("/")
    return first == "fusion" or below[:2] == ["transformer", "blocks"]


def check_rates(params: Any, rates: Rates) -> None:
    """Check that each pattern stands for some parameter.

    Raises:
        UserError: one does not; the nearest names are given.
    """
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    parts = [name.split("/") for name in names]
    known = {"/".join(x[:end]) for x in parts for end in range(1, len(x) + 1)}
    for pattern, _ in rates:
        if not any(_matches(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, sorted(known), n=3)
            near = near or sorted({x[0] for x in parts})
            raise UserError(
                f"optimizer.rates has {pattern!r}, and no parameter's path begins so; "
                f"the nearest are {', '.join(near)}"
            )


def moves(params: Any, rates: Rates) -> Any:
    """Return for each parameter whether it is trained: one of rate zero is frozen."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _factor(name_of(path), rates) > 0, params
    )


def rate_factors(params: Any, rates: Rates, layer_decay: float) -> Any:
    """Return the factor of each parameter, of stacked ones an array along the layers.

    It is the product of those of all patterns that match, so that their order says
    nothing, and of `layer_decay` once for each layer from the top of a tower: not for
    what lies above its blocks, once for the last block, and once more for what lies
    below the first than for that (Bao 2022, arXiv:2106.08254, as its code has it).
    """
    depths = _depths(params)

    def factor(path: Any, x: Any) -> Any:
        name = name_of(path)
        layers = np.asarray(_layers_above(name, depths))
        each = layers.reshape(layers.shape + (1,) * (x.ndim - layers.ndim))
        return np.float32(_factor(name, rates) * layer_decay**each)

    return jax.tree_util.tree_map_with_path(factor, params)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, f"{pattern}*")


def _factor(name: str, rates: Rates) -> float:
    found = [factor for pattern, factor in rates if _matches(name, pattern)]
    return float(np.prod(found))


def _depths(params: Any) -> dict[str, int]:
    """Return how many layers each tower has."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        tower = name_of(path).split("/")[0]
        if tower in TOWERS and is_stacked(name_of(path)):
            found[tower] = x.shape[0]
    return found


def _layers_above(name: str, depths: dict[str, int]) -> int | list[int]:
    """Return for how many layers a parameter is slowed, of stacked ones for each."""
    tower, _, rest = name.partition("/")
    if tower not in depths:
        return 0
    if is_stacked(name):
        return list(range(depths[tower], 0, -1))
    return depths[tower] + 1 if rest.split("/")[0] in BOTTOM else 0

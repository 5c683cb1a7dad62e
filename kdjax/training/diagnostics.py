"""What a step tells of the parameters: norms of each part, and the scale of logits."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.models import TOWERS, Params


def norms_of(tree: Params, name: str) -> dict[str, Array]:
    """Return the global norm of parameters or gradients, and that of each part."""
    parts: dict[str, list[Array]] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        parts.setdefault(part_of([key.key for key in path]), []).append(x)
    norms = {f"{name}/{part}": optax.tree.norm(parts[part]) for part in sorted(parts)}
    return {name: optax.tree.norm(tree), **norms}


def part_of(keys: Sequence[str | int]) -> str:
    """Return which part of what is trained the parameter at a path belongs to.

    That is "vision" or "text", towers with their projections; "answers", the rest of a
    VQA model; "logits", the scale and the bias; or "objective".
    """
    top, inner = str(keys[0]), str(keys[1]) if len(keys) > 1 else ""
    if top != "model":
        return top
    for tower, held in TOWERS.items():
        if inner in held:
            return tower
    return "logits" if inner.startswith("logit_") else "answers"


def logit_scale_of(params: Params) -> dict[str, Array]:
    """Return the model's logit scale, as it multiplies cosines, and bias, if any."""
    model = params.get("model", {})
    found = {"logit_bias": model["logit_bias"]} if "logit_bias" in model else {}
    if "logit_scale" in model:
        found["logit_scale"] = jnp.exp(model["logit_scale"])
    return found

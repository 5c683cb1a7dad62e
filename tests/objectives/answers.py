"""Objectives asked for values and gradients, by the names of the oracle's arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.embeddings import Embeddings, Wanted
from kdjax.models.config import TransformerConfig
from kdjax.objectives import Objective, build_objective

GOLDEN = Path(__file__).parents[1] / "golden"

# Where in an objective's state an array lies that is not of a side.
LEARNT = {
    ("parts", 0, "scale"): "learnt_scale",
    ("bias",): "learnt_bias",
    ("parts", 0, "fusion", "scale"): "fusion_scale",
} | {
    ("parts", 0, part, modality, leaf): f"{prefix}{modality}_{leaf}"
    for part, prefix in (("projection", ""), ("fusion", "fusion_"))
    for modality in ("image", "text")
    for leaf in ("kernel", "bias")
}
# What compares towers; of no test are there more pairs of layers.
ADAPTORS = {("tokens",): "tokens_"} | {("hidden", i): f"hidden_{i}_" for i in range(3)}
ADAPTED = [("norm", "scale"), ("norm", "bias")] + [
    (layer, leaf) for layer in ("up", "down") for leaf in ("kernel", "bias")
]
LEARNT |= {
    ("patches", 0, *place, *leaf): prefix + "_".join(leaf)
    for place, prefix in ADAPTORS.items()
    for leaf in ADAPTED
}
ESTIMATED = {
    ("patches", 0, *place, "standard"): prefix for place, prefix in ADAPTORS.items()
} | {("parts", 0, "basis", m): f"basis_{m}_" for m in ("image", "text")}
LEARNT |= {
    (*place, leaf): prefix + leaf
    for place, prefix in ESTIMATED.items()
    for leaf in ("mean", "matrix")
}


def embeddings(x: Mapping[str, Any], side: str) -> Embeddings:
    text_id = x.get(f"{side}_text_id")
    return Embeddings(
        image=x[f"{side}_image"],
        text=x[f"{side}_text"],
        logit_scale=x[f"{side}_scale"],
        logit_bias=x.get(f"{side}_bias"),
        masked_image=x.get(f"{side}_masked"),
        text_id=None if text_id is None else text_id.astype(jnp.uint32),
        image_tokens=x.get(f"{side}_tokens"),
        **{
            f"image_{name}": jnp.moveaxis(x[f"{side}_{name}"], 1, 0)
            for name in ("hidden", "attention")
            if f"{side}_{name}" in x
        },
        class_logits=x.get(f"{side}_class_logits"),
        class_targets=x.get(f"{side}_class_targets"),
        class_weights=x.get(f"{side}_class_weights"),
    )


def sides(
    objective: Objective,
    x: Mapping[str, Any],
    teachers: Sequence[str] = ("teacher",),
) -> tuple[Embeddings, tuple[Embeddings, ...]]:
    """The embeddings with the layers that the objective compares, of all there are."""

    def only(side: str, wanted: Wanted) -> Embeddings:
        whole = embeddings(x, side)
        layers = {field: np.array(each) for field, each in wanted if each}
        return replace(whole, **{k: getattr(whole, k)[v] for k, v in layers.items()})

    theirs = (only(side, objective.wanted(k)) for k, side in enumerate(teachers))
    return only("student", objective.wanted()), tuple(theirs)


def tower(x: Mapping[str, Any], side: str) -> TransformerConfig | None:
    """The tower whose tokens, hidden states and attention maps a side has."""
    if f"{side}_tokens" not in x:
        return None
    return TransformerConfig(
        width=x[f"{side}_tokens"].shape[-1],
        layers=x[f"{side}_hidden"].shape[1],
        num_heads=x[f"{side}_attention"].shape[2],
        mlp_width=1,
    )


def as_float32(x: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(array, jnp.float32) for name, array in x.items()}


def built(
    spec: Mapping[str, Any],
    x: Mapping[str, Any],
    teachers: Sequence[str] = ("teacher",),
    block_rows: int | None = None,
) -> tuple[Any, dict[str, Any]]:
    """An objective's graph, and its parameters by the names of arrays."""
    graph, state = nnx.split(
        build_objective(
            spec,
            student_width=x["student_image"].shape[1],
            teacher_width=tuple(x[f"{side}_image"].shape[1] for side in teachers),
            student_bias="student_bias" in x,
            student_vision=tower(x, "student"),
            teacher_vision=tower(x, "teacher"),
            block_rows=block_rows,
            rngs=nnx.Rngs(0),
        )
    )
    flat = nnx.to_flat_state(state)
    return graph, {LEARNT[path]: leaf[...] for path, leaf in flat}


def merged(graph: Any, learnt: Mapping[str, Any]) -> Objective:
    paths = {name: path for path, name in LEARNT.items()}
    flat = {paths[name]: value for name, value in learnt.items()}
    return nnx.merge(graph, nnx.State(nnx.traversals.unflatten_mapping(flat)))


def answers(
    spec: Mapping[str, Any],
    x: Mapping[str, np.ndarray],
    teachers: Sequence[str] = ("teacher",),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every term's value, and its gradients; what `x` lacks is as at the start."""
    x = as_float32(x)
    graph, start = built(spec, x, teachers)

    def terms(x: Mapping[str, Any]) -> Any:
        learnt = {name: x[name] for name in start}
        objective = merged(graph, learnt)
        found = objective(*sides(objective, x, teachers))[1]
        return found, found

    gradients, values = jax.jit(jax.jacrev(terms, has_aux=True))(start | x)
    return jax.tree.map(np.asarray, (values, gradients))


@cache
def golden(file: str, case: str = "") -> dict[str, np.ndarray]:
    with np.load(GOLDEN / file) as arrays:
        return {k.removeprefix(case): arrays[k] for k in arrays if k.startswith(case)}


def inputs_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if "/" not in name}


def far(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The distance relative to the length of the second."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def check_gradients(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], name: str
) -> None:
    """Check a term's gradients with a golden file's; it has all that are not zero."""
    prefix = f"{name}/gradient/"
    theirs = {
        key.removeprefix(prefix): array
        for key, array in expected.items()
        if key.startswith(prefix)
    }
    assert len(theirs) >= 2
    for leaf, gradient in found.items():
        if leaf in theirs:
            assert far(gradient, theirs[leaf]) < 1e-4, leaf
        else:
            assert not gradient.any(), leaf


def check_with_oracle(
    found: Mapping[str, np.ndarray],
    loss: Callable[[Mapping[str, np.ndarray]], float],
    slopes: Callable[..., np.ndarray],
    x: Mapping[str, np.ndarray],
) -> None:
    """Check a term's gradients with the oracle's differences; none to the teacher."""
    for leaf, gradient in found.items():
        if leaf.startswith("teacher"):
            assert not gradient.any(), leaf
            continue
        expected = slopes(loss, x, leaf)
        atol = 1e-4 * max(np.linalg.norm(expected), 1e-2)
        assert np.linalg.norm(gradient - expected) < atol, leaf

"""What a module looks like without its parameters."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh

from kdjax.models.clip import CLIP
from kdjax.models.config import CLIPConfig, VQAConfig

Model = Callable[..., nnx.Module]
Config = CLIPConfig | VQAConfig
NO_MESH = AbstractMesh((), ())
# A module's parameters, as nested dicts of arrays.
Params = dict[str, Any]
# What of a CLIP model takes images, and texts, to the joint space.
TOWERS = {
    "vision": ("vision", "visual_projection"),
    "text": ("text", "text_projection"),
}


def graph_of(model: Model, config: Config) -> nnx.GraphDef:
    """Return a module's structure; `nnx.merge` of it and parameters is the module."""
    return _structure(model, config)[0]


def abstract_of(model: Model, config: Config) -> nnx.State:
    """Return a module's parameters as shapes, dtypes and logical axes."""
    return _structure(model, config)[1]


@functools.lru_cache(maxsize=32)
def _structure(model: Model, config: Config) -> tuple[nnx.GraphDef, nnx.State]:
    """Trace a module's construction, once for each config: it takes a while."""
    # On the mesh of the context NNX would look for axes of the names of logical ones.
    with jax.sharding.use_abstract_mesh(NO_MESH):
        module = nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(module)
    return graph, state


class ParameterCounts(NamedTuple):
    """How many parameters a CLIP model has.

    Attributes:
        vision: of the image tower with its projection.
        text: of the text tower with its projection.
        token_embedding: of those, the vocabulary's.
        total: with the scale and bias of the logits.
    """

    vision: int
    text: int
    token_embedding: int
    total: int


def parameter_counts(config: CLIPConfig) -> ParameterCounts:
    """Return how many parameters the model of a config has."""
    shapes = nnx.to_pure_dict(abstract_of(CLIP, config))

    def count(*parts: str) -> int:
        held = [shapes.get(part) for part in parts]
        return sum(x.size for x in jax.tree.leaves(held))

    return ParameterCounts(
        vision=count(*TOWERS["vision"]),
        text=count(*TOWERS["text"]),
        token_embedding=shapes["text"]["token_embedding"]["embedding"].size,
        total=count(*shapes),
    )

"""What a module looks like without its parameters."""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

from kdjax.models.config import CLIPConfig, VQAConfig

Model = Callable[..., nnx.Module]
Config = CLIPConfig | VQAConfig
# A module's parameters, as nested dicts of arrays.
Params = dict[str, Any]


def graph_of(model: Model, config: Config) -> nnx.GraphDef:
    """Return a module's structure; `nnx.merge` of it and parameters is the module."""
    return _structure(model, config)[0]


def abstract_of(model: Model, config: Config) -> nnx.State:
    """Return a module's parameters as shapes, dtypes and logical axes."""
    return _structure(model, config)[1]


@functools.lru_cache(maxsize=32)
def _structure(model: Model, config: Config) -> tuple[nnx.GraphDef, nnx.State]:
    """Trace a module's construction, once for each config: it takes a while."""
    graph, state = nnx.split(nnx.eval_shape(lambda: model(config, rngs=nnx.Rngs(0))))
    return graph, state

"""What is computed: Flax NNX modules built from frozen configs."""

from kdjax.models.clip import CLIP, CLIPOutput
from kdjax.models.config import CLIPConfig, TextConfig, VisionConfig, VQAConfig
from kdjax.models.structure import (
    TOWERS,
    Params,
    abstract_of,
    graph_of,
    parameter_counts,
)
from kdjax.models.vqa import VQAModel
from kdjax.models.zoo import architecture, architecture_names

__all__ = [
    "CLIP",
    "TOWERS",
    "CLIPConfig",
    "CLIPOutput",
    "Params",
    "TextConfig",
    "VQAConfig",
    "VQAModel",
    "VisionConfig",
    "abstract_of",
    "architecture",
    "architecture_names",
    "graph_of",
    "parameter_counts",
]

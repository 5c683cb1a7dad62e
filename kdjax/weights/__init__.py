"""How foreign checkpoints map to ours, and back."""

from kdjax.weights.inherit import check_heir, inherit, with_structure_of
from kdjax.weights.loading import load_clip, load_clip_config
from kdjax.weights.saving import (
    FORMATS,
    check_format,
    has_weights,
    save_clip,
    save_description,
)
from kdjax.weights.stablehlo import image_tower_program

__all__ = [
    "FORMATS",
    "check_format",
    "check_heir",
    "has_weights",
    "image_tower_program",
    "inherit",
    "load_clip",
    "load_clip_config",
    "save_clip",
    "save_description",
    "with_structure_of",
]

"""How foreign checkpoints map to ours, and back."""

from kdjax.weights.inherit import check_heir, inherit, with_structure_of
from kdjax.weights.loading import clip_config, load_clip
from kdjax.weights.saving import FORMATS, check_format, save_clip
from kdjax.weights.stablehlo import image_tower_program

__all__ = [
    "FORMATS",
    "check_format",
    "check_heir",
    "clip_config",
    "image_tower_program",
    "inherit",
    "load_clip",
    "save_clip",
    "with_structure_of",
]

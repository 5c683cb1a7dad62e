"""How foreign checkpoints map to ours, and back."""

from kdjax.weights.inherit import inherit, with_structure_of
from kdjax.weights.loading import load_clip
from kdjax.weights.saving import save_clip

__all__ = ["inherit", "load_clip", "save_clip", "with_structure_of"]

"""How foreign checkpoints map to ours, and back."""

from kdjax.weights.loading import load_clip
from kdjax.weights.saving import save_clip

__all__ = ["load_clip", "save_clip"]

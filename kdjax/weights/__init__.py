"""How foreign checkpoints map to ours, and back."""

from kdjax.weights.huggingface import load_clip, save_clip

__all__ = ["load_clip", "save_clip"]

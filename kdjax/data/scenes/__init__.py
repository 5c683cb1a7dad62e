"""Scenes: a procedural world of coloured shapes, with captions and questions."""

from kdjax.data.scenes.source import Scenes

__all__ = ["Scenes"]

"""kdjax: does a stronger CLIP teacher make a better student?"""

from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_clip": "kdjax.weights",
    "load_processor": "kdjax.data.processor",
    "load_vqa": "kdjax.commands.asking",
    "save_clip": "kdjax.weights",
    "build_source": "kdjax.data.registry",
    "run": "kdjax.cli",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first used, so that `--help` is instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kdjax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)

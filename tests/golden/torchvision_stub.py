"""OpenCLIP and timm without torchvision, which they merely import.

`from torchvision_stub import open_clip, timm` imports them with empty modules in its
place, where every name is a class that does nothing. No image is read or resized.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMES = ("datasets", "ops", "ops.misc", "transforms", "transforms.functional")


class Anything(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Stub(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


def install() -> None:
    for name in ("torchvision", *(f"torchvision.{name}" for name in NAMES)):
        module = Stub(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


install()
open_clip, timm = import_module("open_clip"), import_module("timm")

"""What all tests share: the CPU, a cache of programs, the same examples every time."""

import os
from pathlib import Path

from hypothesis import settings

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache/kdjax/tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

settings.register_profile("kdjax", deadline=None, derandomize=True, database=None)
settings.load_profile("kdjax")

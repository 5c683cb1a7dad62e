"""What all tests share: the CPU, a cache of programs, the same examples every time."""

import os
from pathlib import Path

from hypothesis import settings

os.environ["JAX_PLATFORMS"] = "cpu"
# What is computed depends little on how well it is optimised; most of the time does.
# The command line's own tests compile as users do.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
).lstrip()
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache/kdjax/tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

settings.register_profile("kdjax", deadline=None, derandomize=True, database=None)
settings.load_profile("kdjax")

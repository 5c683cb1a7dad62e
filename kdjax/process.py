"""What kdjax sets up in a process: signals, caches, memory, silence."""

import ctypes
import functools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

# With any of these JAX may find more than a CPU.
ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
# What is said of arrays that Orbax does not read or write when one has failed.
CLOSED_LOOP = "Event loop is closed"
LEFT_ALONE = "coroutine '.*' was never awaited"  # nobody else here has any
LEFT_TASK = re.compile(
    r"\w+ exception was never retrieved\b.*(/orbax/|tensorstore_spec)", re.S
)


@contextmanager
def listening(stopped: str) -> Iterator[None]:
    """End at once when a signal asks; while training the loop's handlers are there.

    Python's handlers run between its own instructions, and a compiler may keep it from
    them for minutes. A thread is told at once.

    Args:
        stopped: what is said then.
    """
    told = signal.set_wakeup_fd(_ending_thread(stopped), warn_on_full_buffer=False)
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, _stop) for signum in watched}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(told)


def _stop(signum: int, frame: FrameType | None) -> None:
    """Do no more, for the thread ends the process.

    An exception could be raised, and lost, in the middle of any library's start.
    """
    time.sleep(1)
    os._exit(128 + signum)  # where a library took the signals from the thread


@functools.cache
def _ending_thread(stopped: str) -> int:
    """Return where a thread reads signals, and ends the process for those of `_stop`.

    It is for those that come when there is nothing to save.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def end() -> None:
        while told := os.read(reader, 1):
            if signal.getsignal(told[0]) is _stop:
                print(f"\n{stopped}", file=sys.stderr, flush=True)
                os._exit(128 + told[0])

    threading.Thread(target=end, daemon=True).start()
    return writer


def quiet_libraries() -> None:
    """Keep libraries from chatter."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import logging
    import warnings

    # Of what goes wrong while it saves Orbax writes pages, and raises it too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Of many arrays it raises the first error, and Python finds all that it leaves.
    logging.getLogger("asyncio").addFilter(_not_left)
    warnings.filterwarnings("ignore", LEFT_ALONE, RuntimeWarning)
    sys.unraisablehook = functools.partial(_but_what_is_left, sys.unraisablehook)


def _not_left(record: "logging.LogRecord") -> bool:
    """Return whether this is of anything but an array that Orbax has given up."""
    return not LEFT_TASK.match(record.getMessage())


def _but_what_is_left(
    say: Callable[["sys.UnraisableHookArgs"], object], found: "sys.UnraisableHookArgs"
) -> None:
    """Say what no caller can be told, but of arrays that Orbax has given up.

    TensorStore's threads tell a closed event loop of their end, or nobody awaits it.
    """
    late = found.exc_type is RuntimeError and str(found.exc_value) == CLOSED_LOOP
    code = getattr(found.object, "cr_code", None)
    if not (late or (code and "/orbax/" in code.co_filename)):
        say(found)


def prepare() -> None:
    """Set up the process for whatever computes."""
    if _on_cpu():
        # Threads that JAX starts have arenas of their own where there may be several.
        keep_freed_memory()
    _keep_compiled()


def _on_cpu() -> bool:
    """Return whether JAX will compute on a CPU, before it starts."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(map(find_spec, ACCELERATORS))


def _keep_compiled() -> None:
    """Let JAX keep in the user's cache folder what it compiles, unless it knows where.

    What JAX was told about it, by its environment or its config, stays.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.values["jax_compilation_cache_dir"]:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", f"{cache}/kdjax/xla")
    least = "jax_persistent_cache_min_compile_time_secs"
    by_default = jax.config.values[least] == 1.0
    if by_default and least.upper() not in os.environ:
        jax.config.update(least, 0.2)
    # A process that has compiled something before would go on without.
    compilation_cache.reset_cache()


def keep_freed_memory() -> None:
    """Let glibc keep what XLA frees between steps on a CPU.

    By default the buffers of a step go back to the system, and the next step waits for
    fresh pages: a fifth to a third of its time. So nothing is mapped by itself, and
    there is one arena, whose top is never cut; of others what is large is mapped.
    """
    if sys.platform != "linux":
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # of malloc.h
    # Not every C library of Linux has it.
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)
        mallopt(top_pad, 64 << 20)

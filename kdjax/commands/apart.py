"""A function in a process of its own, and what it leaves at work ends with it."""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from kdjax.errors import UserError

Given = TypeVar("Given")


def apart(function: Callable[..., Given], *given: Any) -> Given:
    """Return what a function returns in another process, which is then killed.

    Args:
        function: of a module, so that the other process finds it.
        *given: to the function.

    Raises:
        UserError: the other process died.
        Exception: what the function raised.
    """
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ProcessPoolExecutor(1, spawn, _begin, (folder,)) as pool,
    ):
        try:
            return pool.submit(function, *given).result()
        except BrokenProcessPool as error:
            raise UserError(
                "the process that did the work died: see what it said, and whether "
                "this machine's memory was short"
            ) from error
        finally:
            for child in multiprocessing.active_children():
                child.kill()


def _begin(folder: str) -> None:
    """Keep temporary files where the parent removes them, and end when it does."""
    tempfile.tempdir = folder
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)

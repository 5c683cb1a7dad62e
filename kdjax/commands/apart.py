"""A function in a process of its own, and what it leaves at work ends with it."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from kdjax.errors import Transient, UserError

Given = TypeVar("Given")


def apart(function: Callable[..., Given], *given: Any) -> Given:
    """Return what a function returns in another process, which is then killed.

    Args:
        function: of a module, so that the other process finds it.
        *given: to the function.

    Raises:
        Exception: the function raised it.
        Transient: the other process died.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        asked = (sender, folder, function, given)
        child = spawn.Process(target=_answer, args=asked)
        with _deaf():
            child.start()
        sender.close()
        try:
            returned, answer = receiver.recv()
        except EOFError as error:
            raise Transient(
                "the process that did the work died: see what it said, and whether "
                "this machine's memory was short"
            ) from error
        finally:
            child.kill()
            child.join()
    if not returned:
        raise answer
    return answer


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that hear nothing of what asks to stop: they end with this one.

    A terminal asks them too, and who then dies first removes no folder.
    """
    resource_tracker.ensure_running()  # which would hear again what is not heard
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(
    sender: Connection, folder: str, function: Callable[..., Any], given: tuple[Any]
) -> None:
    tempfile.tempdir = folder
    os.environ["TMPDIR"] = folder  # where libraries such as libtpu write what they log
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        answer = True, function(*given)
    except MemoryError:
        raise
    except Exception as error:  # whatever it is, the other process raises it
        if not isinstance(error, UserError):
            error.add_note(traceback.format_exc())  # which does not go with it
        answer = False, error
    sender.send(answer)


def _end_with_parent(folder: str) -> None:
    """End when the parent does, which removes the folder unless it was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

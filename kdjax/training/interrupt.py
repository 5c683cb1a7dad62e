"""Ctrl-C and SIGTERM end a run between two steps, after a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved what it had.

    Attributes:
        signum: the signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Flag:
    """Remembers the signal that asked to stop."""

    signum: int | None = None


@contextmanager
def stop_flag() -> Iterator[Flag]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one stops at once.

    Outside of the main thread signals are left alone.
    """
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        if flag.signum is not None:
            raise Interrupted(signum)
        flag.signum = signum

    watched = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, ask) for signum in watched}
    try:
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

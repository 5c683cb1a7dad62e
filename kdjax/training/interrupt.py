"""Ctrl-C and SIGTERM end a run between two steps, after a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdjax import hosts


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved what it had.

    Attributes:
        signum: the signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__("stopped; the same command goes on from what is saved")
        self.signum = signum


class Flag:
    """Remembers the signal that asked to stop."""

    signum: int | None = None

    def asked(self) -> int | None:
        """Return the signal that asked this process to stop, or None.

        Of several hosts any may have been asked, all must call this, and all hear of it
        in the same call.
        """
        if not hosts.several():
            return self.signum
        return (self.signum or signal.SIGTERM) if hosts.told_to_stop() else None


@contextmanager
def stop_flag() -> Iterator[Flag]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one stops at once.

    Of several hosts SIGTERM is JAX's, which tells all of them.
    Outside of the main thread signals are left alone.

    Raises:
        Interrupted: a signal has come, and what was to be done with the flag ended as
            if none had.
    """
    flag = Flag()
    with _handled(flag):
        yield flag
    if (asked := flag.asked()) is not None:
        raise Interrupted(asked)


@contextmanager
def _handled(flag: Flag) -> Iterator[None]:
    """Let signals set a flag."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    shared = hosts.several()

    def ask(signum: int, frame: FrameType | None) -> None:
        if flag.signum is not None and shared:
            hosts.leave(128 + signum, at_once=True)  # others may wait for this one
        if flag.signum is not None:
            raise Interrupted(signum)
        flag.signum = signum
        if shared:
            signal.raise_signal(signal.SIGTERM)

    watched = (signal.SIGINT,) if shared else (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, ask) for signum in watched}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

"""Ctrl-C and SIGTERM end a run between two steps, after a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdjax import hosts


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop.

    Attributes:
        signum: the signal that asked.
        saved: whether it has saved what it had.
    """

    def __init__(self, signum: int, saved: bool = True) -> None:
        super().__init__("stopped; the same command goes on from the last checkpoint")
        self.signum, self.saved = signum, saved


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
    """Turn SIGINT and SIGTERM into a flag; Ctrl-C stops at once where one has come.

    A scheduler may say SIGTERM twice, and still wants what is saved. Of several hosts
    SIGTERM is JAX's, which tells all of them. Outside of the main thread signals are
    left alone.

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
        impatient = flag.signum is not None and signum == signal.SIGINT
        if impatient and shared:
            hosts.leave(128 + signum, at_once=True)  # others may wait for this one
        if impatient:
            raise Interrupted(signum, saved=False)
        flag.signum = flag.signum or signum
        if shared:
            signal.raise_signal(signal.SIGTERM)

    watched = (signal.SIGINT,) if shared else (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, ask) for signum in watched}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

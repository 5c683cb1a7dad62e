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

    def stops_at(self, step: int) -> int | None:
        """Return the signal that asked this process to stop at a step, or None.

        Of several hosts any may have been asked, and all stop at the same step.
        """
        if not hosts.several():
            return self.signum
        from jax.experimental.multihost_utils import reached_preemption_sync_point

        if not reached_preemption_sync_point(step):
            return None
        return self.signum or signal.SIGTERM


@contextmanager
def stop_flag() -> Iterator[Flag]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one stops at once.

    Of several hosts SIGTERM is JAX's, which tells all of them.
    Outside of the main thread signals are left alone.
    """
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
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
        yield flag
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

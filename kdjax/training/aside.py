"""What is slow and nobody waits for: done in a thread, in order."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Aside:
    """Does things one after another in a thread; what fails a later call raises."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._begun: deque[Future[Any]] = deque()

    def begin(self, do: Callable[..., object], *given: Any) -> None:
        """Do something after all that was begun before."""
        while self._begun and self._begun[0].done():
            self._begun.popleft().result()
        self._begun.append(self._thread.submit(do, *given))

    def wait(self) -> None:
        """Wait until all is done."""
        while self._begun:
            self._begun.popleft().result()

    def close(self) -> None:
        """Wait until all is done, and do no more."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

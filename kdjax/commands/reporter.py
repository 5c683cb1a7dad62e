"""What a run tells the person who waits for it."""

import sys
import time
from dataclasses import dataclass, field

from kdjax.training.loop import Progress


def clock(seconds: float) -> str:
    """Return a duration for people: 45 s, 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@dataclass
class Reporter:
    """Plain lines, or one line that changes in place on a terminal.

    Attributes:
        every: seconds between lines where there is no terminal.
        prefix: shown before every line, such as the place in a study.
        quiet: nothing is shown.
    """

    every: float = 10.0
    prefix: str = ""
    quiet: bool = False
    _shown: float = field(default=0.0, init=False)

    @property
    def terminal(self) -> bool:
        """Whether the lines are read on a terminal."""
        return sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self.quiet:
            return
        start = "\r\x1b[2K" if self.terminal else ""
        print(f"{start}{self.prefix}{text}", file=sys.stderr, flush=True)

    def steps(self, label: str) -> Progress:
        """Return what a training loop calls with its steps."""
        began: list[tuple[float, int]] = []

        def progress(step: int, steps: int, loss: float | None) -> None:
            now = time.monotonic()
            began.append((now, step))
            due = self.terminal or step == steps or now - self._shown >= self.every
            if self.quiet or not due:
                return
            self._shown = now
            text = f"{label}: step {step} of {steps}"
            text += f", loss {loss:.4g}" if loss is not None else ""
            start, first = began[0]
            if step - first > 0 and step < steps:
                left = (now - start) / (step - first) * (steps - step)
                text += f", {clock(left)} left"
            self._show(text)

        return progress

    def _show(self, text: str) -> None:
        if self.terminal:
            print(f"\r\x1b[2K{self.prefix}{text}", end="", file=sys.stderr, flush=True)
        else:
            self.say(text)

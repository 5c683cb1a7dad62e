"""What a run tells the person who waits for it."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdjax.training.metrics import Watch

if TYPE_CHECKING:
    from rich.progress import Progress

SPEED = "speed/samples_per_second"


def clock(seconds: float) -> str:
    """Return a duration for people: 45 s, 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@dataclass
class Reporter:
    """A bar on a terminal, and plain lines where there is none.

    Attributes:
        every: seconds between lines where there is no terminal.
        prefix: shown before every line, such as the place in a study.
        quiet: nothing is shown.
    """

    every: float = 10.0
    prefix: str = ""
    quiet: bool = False
    _shown: float = field(default=0.0, init=False)
    _bar: "Progress | None" = field(default=None, init=False)

    @property
    def terminal(self) -> bool:
        """Whether the lines are read on a terminal."""
        return sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar if there is one."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(
                f"{self.prefix}{text}", markup=False, highlight=False
            )
        else:
            print(f"{self.prefix}{text}", file=sys.stderr, flush=True)

    @contextmanager
    def steps(self, label: str, steps: int) -> Iterator[Watch]:
        """Give what a training loop tells of its steps.

        Args:
            label: what is done.
            steps: in all.
        """
        if self.quiet:
            yield lambda step, numbers: None
        elif self.terminal:
            with self._progress() as bar:
                self._bar = bar
                try:
                    yield self._on_bar(bar, f"{self.prefix}{label}", steps)
                finally:
                    self._bar = None
        else:
            yield self._in_lines(label, steps)

    def _progress(self) -> "Progress":
        from rich import progress
        from rich.console import Console

        # What is read last is most worth its place where a terminal is narrow.
        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[told]}", markup=False),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def _on_bar(self, bar: "Progress", label: str, steps: int) -> Watch:
        task = bar.add_task(label, total=None, told="")

        def watch(step: int, numbers: Mapping[str, float]) -> None:
            if bar.tasks[task].total is None:  # the time left is from the first on
                bar.reset(task, total=steps, completed=step)
            bar.update(task, completed=step)
            if numbers:
                bar.update(task, told=_told(numbers))

        return watch

    def _in_lines(self, label: str, steps: int) -> Watch:
        began: tuple[float, int] | None = None

        def watch(step: int, numbers: Mapping[str, float]) -> None:
            nonlocal began
            now = time.monotonic()
            began = began or (now, step)
            if not numbers or (step < steps and now - self._shown < self.every):
                return
            self._shown = now
            parts = [f"{label}: step {step} of {steps}", _told(numbers)]
            start, first = began
            if first < step < steps:
                left = (now - start) / (step - first) * (steps - step)
                parts.append(f"{clock(left)} left")
            self.say(", ".join(parts))

        return watch


def _told(numbers: Mapping[str, float]) -> str:
    return f"loss {numbers['loss']:.4g}, {numbers[SPEED]:.4g} samples/s"

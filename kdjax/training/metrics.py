"""Metrics of a run: one JSON line per logged step, TensorBoard events, W&B."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from etils import epath

from kdjax import hosts
from kdjax.errors import UserError
from kdjax.training.lines import Lines, read_lines

Watch = Callable[[int, Mapping[str, float]], None]

FILE = "metrics.jsonl"


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's metrics; what is torn is left out."""
    return [row for row in read_lines(workdir / FILE) if "seconds" in row]


class MetricsWriter:
    """Writes metrics as JSON lines and as TensorBoard's events.

    What is logged is on disk after `flush`, which is called before a checkpoint is
    committed.
    """

    def __init__(self, workdir: epath.Path, resumed_step: int, started: float) -> None:
        from tensorboardX import SummaryWriter

        self._lines = Lines(workdir / FILE, resumed_step)
        self._started = started
        self._events = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=resumed_step + 1,
            write_to_disk=hosts.is_first(),
        )

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self._started

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's numbers."""
        self._lines.write(step, {"seconds": round(self.seconds, 3), **metrics})
        for name, value in metrics.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Put what was logged on disk."""
        self._lines.flush()

    def close(self) -> None:
        """Flush and end the event file."""
        try:
            self._lines.close()
        finally:
            self._events.close()


@contextmanager
def wandb_run(project: str, run: str, config: Mapping[str, Any]) -> Iterator[Watch]:
    """Give what is told a step's numbers, for a run of Weights & Biases.

    Args:
        project: there; empty for none.
        run: its hash; a resumed run goes on under the same name.
        config: resolved, to be shown beside the curves.

    Raises:
        UserError: the package is not installed, or no login or network is there.
    """
    if not project or not hosts.is_first():
        yield lambda step, metrics: None
        return
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"wandb is {project!r}, but the package is not installed: run "
            "pip install 'kdjax[wandb]', or leave wandb empty"
        ) from error
    try:
        there = wandb.init(
            project=project, id=run, name=run, config=dict(config), resume="allow"
        )
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases does not begin a run in {project!r}: {error} "
            "Or set WANDB_MODE=offline, or leave wandb empty."
        ) from error

    def tell(step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            there.log(dict(metrics), step=step)

    # Its own way to end with an error prints a traceback.
    try:
        yield tell
    except BaseException:
        there.finish(exit_code=1)
        raise
    there.finish()

"""Metrics of a run: one JSON line per logged step, TensorBoard events, W&B."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from etils import epath

from kdjax import hosts
from kdjax.errors import UserError
from kdjax.files import append_line, write_whole

Watch = Callable[[int, Mapping[str, float]], None]

FILE = "metrics.jsonl"


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's metrics; what is torn is left out."""
    path = workdir / FILE
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # also of what is no text
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int)
    return row if whole and "seconds" in row else None


class MetricsWriter:
    """Writes metrics so that every step is there once, also after a resume.

    Lines later than the step that is resumed from are dropped, and what is logged is on
    disk after `flush`, which is called before a checkpoint is committed. In a local
    folder every line is written as it comes; object stores cannot append, so there
    `flush` rewrites the file.
    """

    def __init__(self, workdir: epath.Path, resumed_step: int, started: float) -> None:
        from tensorboardX import SummaryWriter

        self._path = workdir / FILE
        rows = [row for row in read_metrics(workdir) if row["step"] <= resumed_step]
        self._lines = [json.dumps(row) for row in rows]
        self._spent = rows[-1]["seconds"] if rows else 0.0
        self._started = started
        self.flush()
        self._events = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=resumed_step + 1,
            write_to_disk=hosts.is_first(),
        )

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self._spent + time.monotonic() - self._started

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's numbers."""
        line = json.dumps({"step": step, "seconds": round(self.seconds, 3), **metrics})
        self._lines.append(line)
        if "://" not in str(self._path):
            append_line(self._path, line)
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Put what was logged on disk, atomically."""
        text = "".join(line + "\n" for line in self._lines)
        write_whole(self._path, text.encode())

    def close(self) -> None:
        """Flush and end the event file."""
        self.flush()
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
    with there:
        yield lambda step, metrics: there.log(dict(metrics), step=step)

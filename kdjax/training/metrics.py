"""Metrics of a run: one JSON line per logged step, TensorBoard events, W&B."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from etils import epath

from kdjax import hosts
from kdjax.errors import UserError
from kdjax.files import read_json, write_whole
from kdjax.training.events import Events
from kdjax.training.lines import Lines, read_lines

Watch = Callable[[int, Mapping[str, float]], None]

FILE = "metrics.jsonl"
# The name that Weights & Biases has for a workdir's run.
WANDB = "wandb.json"


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """Return the whole lines of a run's metrics; what is torn is left out."""
    return [row for row in read_lines(workdir / FILE) if "seconds" in row]


class MetricsWriter:
    """Writes metrics as JSON lines and as TensorBoard's events.

    What is logged is on disk after `flush`, which is called before a checkpoint is
    committed.
    """

    def __init__(self, workdir: epath.Path, resumed_step: int, started: float) -> None:
        self._started = started
        self._lines = Lines(workdir / FILE, resumed_step)
        # Of several hosts the first alone writes.
        folder = workdir / "tensorboard"
        self._events = Events(folder, resumed_step) if hosts.is_first() else None

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self._started

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log one step's numbers."""
        self._lines.write(step, {"seconds": round(self.seconds, 3), **metrics})
        if self._events:
            self._events.write(step, metrics)

    def flush(self) -> None:
        """Put what was logged on disk."""
        self._lines.flush()
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """Put what was logged on disk, and end the files."""
        try:
            self._lines.close()
        finally:
            if self._events:
                self._events.close()


@contextmanager
def wandb_run(
    project: str, workdir: epath.Path, run: str, config: Mapping[str, Any]
) -> Iterator[Watch]:
    """Give what is told a step's numbers, for a run of Weights & Biases.

    Args:
        project: there; empty for none.
        workdir: of the run; one that is resumed in it goes on there, and no other does.
        run: its hash, by which it is shown.
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
            project=project,
            id=_wandb_id(workdir),
            name=run,
            config=dict(config),
            resume="allow",
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


def _wandb_id(workdir: epath.Path) -> str:
    """Return what tells a workdir's run from all others, drawn when it is first asked.

    A hash of the config would be that of equal runs elsewhere too, and one of the path
    that of a run that was removed.
    """
    file = workdir / WANDB
    if not file.exists():
        drawn = {"id": secrets.token_hex(6)}
        write_whole(file, (json.dumps(drawn) + "\n").encode())
    return str(read_json(file)["id"])

"""A file of JSON lines, one for a step, that a resumed run goes on with."""

import json
import math
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from etils import epath

from kdjax.files import append_line, sync, write_whole
from kdjax.training.aside import Aside


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file; what is torn is left out."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [row for row in map(_row, lines) if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # also of what is no text
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


class Lines:
    """Writes lines so that every step is there once, also after a resume.

    Lines later than the step that is resumed from are dropped, and what was written is
    on disk after `flush`, which is called before a checkpoint is committed. In a local
    folder a thread writes every line as it comes, and what it fails of is raised by a
    later call; object stores cannot append, so there `flush` writes the file anew.
    Without a line there is no file.
    """

    def __init__(self, path: epath.Path, resumed_step: int) -> None:
        self._path = path
        self._appends = "://" not in str(path)
        kept = [row for row in read_lines(path) if row["step"] <= resumed_step]
        self._lines = [json.dumps(row) for row in kept]
        # A file system may be slow, and steps do not wait for it.
        self._aside = Aside()
        if path.exists():
            self._rewrite()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; a number that is not finite is null there."""
        line = json.dumps({"step": step, **{k: _plain(x) for k, x in values.items()}})
        self._lines.append(line)
        if self._appends:
            self._aside.begin(append_line, self._path, line)

    def flush(self) -> None:
        """Put what was written on disk."""
        self._aside.wait()
        if self._lines and self._appends:
            sync(self._path)
        elif self._lines:
            self._rewrite()

    def close(self) -> None:
        """Put what was written on disk, and write no more."""
        with closing(self._aside):
            self.flush()

    def _rewrite(self) -> None:
        text = "".join(line + "\n" for line in self._lines)
        write_whole(self._path, text.encode())


def _plain(value: Any) -> Any:
    """Return a value that JSON has."""
    return None if isinstance(value, float) and not math.isfinite(value) else value

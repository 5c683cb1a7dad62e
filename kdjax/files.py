"""Files that are there whole or not at all, and what is in those of JSON.

Of several hosts, which all do the same, the first alone writes: what a run writes, but
for checkpoints, goes through here.
"""

import fcntl
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

from etils import epath

from kdjax import hosts
from kdjax.errors import NoRoom, UserError

P = ParamSpec("P")

# In the words of errors of a disk on which there is no room, whoever writes.
FULL = re.compile("No space left on device|Disk quota exceeded|File too large")


def _once(write: Callable[P, None]) -> Callable[P, None]:
    """Return what does so on the first host and does nothing on the others."""

    @functools.wraps(write)
    def on_first(*args: P.args, **kwargs: P.kwargs) -> None:
        if hosts.is_first():
            write(*args, **kwargs)

    return on_first


@_once
def make_folder(path: epath.Path) -> None:
    """Make a folder and those it is in, where they are not there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder {path} cannot be made ({error.strerror or error}); give "
            "another"
        ) from error


@contextmanager
def _whole(path: epath.Path) -> Iterator[epath.Path]:
    """Give where to write a file so that nobody ever finds a part of it.

    In a bucket an object appears when it is complete; elsewhere it is renamed to its
    name when it is on the disk. What is there and is no file, such as a device or a
    pipe, is written into, and so is what a link leads to.
    """
    if "://" in str(path):
        yield path
        return
    real = Path(path).resolve()
    path = epath.Path(real)
    if real.exists() and not real.is_file():
        yield path
        return
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    sync(partial)
    partial.replace(path)


@contextmanager
def held(folder: epath.Path) -> Iterator[bool]:
    """Keep a folder to this process, and give whether none else keeps it.

    The first host does. It ends with the process, however that ends. In a bucket, and
    on a file system that knows no locks, nobody is kept out.
    """
    if "://" in str(folder) or not hosts.is_first():
        yield True
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except OSError:
        free = True
    try:
        yield free
    finally:
        os.close(place)


@_once
def write_whole(path: epath.Path, content: bytes) -> None:
    """Write a file, in place of any that is there; nobody ever finds a part of it."""
    with _whole(path) as file:
        file.write_bytes(content)


@_once
def copy_file(source: epath.Path, target: epath.Path) -> None:
    """Copy a file, in place of any that is there; nobody ever finds a part of it."""
    with _whole(target) as file:
        source.copy(file, overwrite=True)


@_once
def sync(path: epath.Path) -> None:
    """Wait until a local file is on the disk, where it is after a loss of power too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@_once
def append_line(path: epath.Path, line: str) -> None:
    """Add a line to a file of a local folder; object stores cannot."""
    with path.open("a") as file:
        file.write(f"{line}\n")


@_once
def remove_file(path: epath.Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


@contextmanager
def room_explained(workdir: epath.PathLike) -> Iterator[None]:
    """Say of a full disk what becomes of the run that writes there.

    Args:
        workdir: of the run; where an error names no file, it is of that disk.

    Raises:
        NoRoom: there was none for something of it.
    """
    try:
        yield
    except Exception as error:
        full = _full(error)
        if full is None:
            raise
        file = getattr(full, "filename", None)
        place = f"for {file}" if file else f"on the disk of the workdir {workdir}"
        raise NoRoom(
            f"there is no room {place}: make some, and the same command goes on from "
            "what is saved"
        ) from error


def _full(error: BaseException | None) -> BaseException | None:
    """Return the error that is of a full disk, of one and those that it comes from."""
    if error is None or FULL.search(str(error)):
        return error
    return _full(error.__cause__ or error.__context__)


def read_json(path: epath.Path) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises:
        UserError: it is missing, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; a model directory needs it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: fetch it again")
    return content

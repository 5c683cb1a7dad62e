"""Files that are there whole or not at all, and what is in those of JSON."""

import json
from typing import Any

from etils import epath

from kdjax.errors import UserError


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


def write_whole(path: epath.Path, content: bytes) -> None:
    """Write a file so that nobody ever finds a part of it.

    In a bucket an object appears when it is complete; elsewhere it is renamed to its
    name when it is.
    """
    if "://" in str(path):
        path.write_bytes(content)
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


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

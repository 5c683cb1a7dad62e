"""Data sources by name: adding one is a file and a line here."""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from typing import Any

from kdjax.data.records import Source
from kdjax.errors import UserError

_SOURCES = {
    "easy_vqa": "kdjax.data.easy_vqa:EasyVQA",
    "scenes": "kdjax.data.scenes:Scenes",
}


def source_names() -> tuple[str, ...]:
    """Return the registered names, sorted."""
    return tuple(sorted(_SOURCES))


def build_source(name: str, split: str, **options: Any) -> Source:
    """Return the source registered as `name`, for one split.

    Args:
        name: one of `source_names()`.
        split: one of the source's own, such as "train".
        options: keyword arguments of the source's class.

    Raises:
        UserError: the name, the split or an option is unknown.
    """
    if name not in _SOURCES:
        raise UserError(
            f"there is no data set {name!r}: {_nearest(name, source_names())}"
        )
    module, _, attribute = _SOURCES[name].partition(":")
    source_class = getattr(importlib.import_module(module), attribute)
    known = [
        key for key in inspect.signature(source_class).parameters if key != "split"
    ]
    for option in options:
        if option not in known:
            raise UserError(
                f"the data set {name!r} has no option {option!r}: "
                f"{_nearest(option, known)}"
            )
    return source_class(split, **options)


def _nearest(given: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1)
    if close:
        return f"did you mean {close[0]!r}"
    return f"choose one of {', '.join(known)}" if known else "remove it"

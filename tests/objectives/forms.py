"""Every objective in each of its forms, and combinations that have them all."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdjax.objectives.pairs import PairSum
from kdjax.objectives.registry import REGISTRY

Spec = Mapping[str, Mapping[str, Any]]


def forms() -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """Every objective as it is by default, and with each other choice of an option."""
    for name, entry in REGISTRY.items():
        yield name, (name, {})
        for key, option in entry.options.items():
            for choice in option.choices:
                if choice != option.default:
                    yield f"{name} {key}={choice}", (name, {key: choice})


FORMS = dict(forms())
FORMS["affinity within"] = ("affinity", {"image_image": 1.0, "text_text": 1.0})


def combinations() -> list[dict[str, dict[str, Any]]]:
    """As few as have every form once, the defaults first."""
    found: list[dict[str, dict[str, Any]]] = []
    for name, options in FORMS.values():
        free = [spec for spec in found if name not in spec]
        if not free:
            free = [{}]
            found += free
        free[0][name] = options
    return found


def has_blocks(name: str) -> bool:
    """Whether an objective goes through pairs some rows at a time."""
    entry = REGISTRY[name]
    return entry.by_rows or entry.function.__annotations__["return"] is PairSum

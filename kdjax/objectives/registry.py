"""Objectives by name, with their options; presets of several."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array

from kdjax.errors import UserError
from kdjax.objectives.clip_kd import crd_loss, fd_loss, icl_loss
from kdjax.objectives.contrastive import clip_loss

Spec = Mapping[str, Mapping[str, Any]] | str


@dataclass(frozen=True)
class Entry:
    """What the combining module must know of an objective.

    Attributes:
        function: (student, teacher, **options) -> scalar, or (student) -> scalar.
        weight: the default weight.
        options: defaults of the options beside the weight.
        choices: the allowed values of options that are names.
        needs_teacher: whether the teacher is an argument.
        needs_projection: whether the student comes in the teacher's width.
        learns_scale: whether `scale` is a learnt parameter.
    """

    function: Callable[..., Array]
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs_teacher: bool = True
    needs_projection: bool = False
    learns_scale: bool = False


REGISTRY: dict[str, Entry] = {
    "clip": Entry(clip_loss, needs_teacher=False),
    "crd": Entry(crd_loss, options={"teacher_scale": "own"}),
    "fd": Entry(
        fd_loss,
        weight=3.9,
        options={"reduction": "sum"},
        choices={"reduction": ("sum", "mean")},
        needs_projection=True,
    ),
    "icl": Entry(
        icl_loss,
        options={"scale": "raw"},
        choices={"scale": ("raw", "exp")},
        needs_projection=True,
        learns_scale=True,
    ),
}

# The released fd averages over the width; its weight says so.
MEAN_REDUCTION_WEIGHT = 2000.0

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "clip_kd": {"clip": {}, "crd": {}, "icl": {}, "fd": {}},
    "clip_kd_legacy": {"clip": {}, "crd": {}, "icl": {}, "fd": {"reduction": "mean"}},
}


def objective_names() -> list[str]:
    """Return the registered objectives."""
    return list(REGISTRY)


def preset_names() -> list[str]:
    """Return the names that stand for several objectives."""
    return list(PRESETS)


def expand(spec: Spec) -> dict[str, dict[str, Any]]:
    """Return every objective with its weight and all of its options.

    Raises:
        UserError: an unknown name or option (the nearest is named) or a bad value.
    """
    if isinstance(spec, str):
        if spec not in PRESETS:
            raise UserError(_unknown("preset of objectives", spec, PRESETS))
        spec = PRESETS[spec]
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(
            f"objectives are {spec!r}; give a preset ({', '.join(PRESETS)}) or names "
            "with options, such as {'clip': {}, 'fd': {'weight': 2.0}}"
        )
    return {name: _filled(name, options) for name, options in spec.items()}


def _filled(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if name not in REGISTRY:
        raise UserError(_unknown("objective", name, REGISTRY))
    entry = REGISTRY[name]
    if not isinstance(options, Mapping):
        raise UserError(f"objective {name} has {options!r}; give a mapping of options")
    known = {"weight": entry.weight, **entry.options}
    for key in options:
        if key not in known:
            raise UserError(_unknown(f"option of objective {name}", key, known))
    if options.get("reduction") == "mean":
        known["weight"] = MEAN_REDUCTION_WEIGHT
    filled = {**known, **options}
    _number(f"weight of objective {name}", filled["weight"], smallest=0.0)
    for key, allowed in entry.choices.items():
        if filled[key] not in allowed:
            raise UserError(
                f"{key} of objective {name} is {filled[key]!r}; give "
                + " or ".join(allowed)
            )
    scale = filled.get("teacher_scale", "own")
    if scale != "own":
        _number(f"teacher_scale of objective {name}", scale, smallest=1e-6)
    return filled


def _number(what: str, value: Any, smallest: float) -> None:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine or not math.isfinite(value) or value < smallest:
        raise UserError(f"{what} is {value!r}; give a number of at least {smallest:g}")


def _unknown(what: str, name: str, known: Mapping[str, Any]) -> str:
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    return (
        f"there is no {what} {name!r}; did you mean {nearest[0]!r}? "
        f"(there are {', '.join(known)})"
    )

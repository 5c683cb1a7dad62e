"""Objectives by name, with their options; presets of several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from jaxtyping import Array

from kdjax.errors import UserError
from kdjax.objectives.attention import attention_loss
from kdjax.objectives.classes import bce_loss, dkd_loss, hinton_loss
from kdjax.objectives.clip_kd import (
    afd_loss,
    crd_loss,
    cross_kd_loss,
    fd_loss,
    icl_loss,
    mfd_loss,
)
from kdjax.objectives.contrastive import clip_loss
from kdjax.objectives.dime_fm import dime_fm_loss
from kdjax.objectives.gradients import gd_loss
from kdjax.objectives.layers import LAYERS
from kdjax.objectives.logits import dist_loss, logit_std_loss
from kdjax.objectives.options import Option, check_options, static, unknown
from kdjax.objectives.pairs import PairSum
from kdjax.objectives.principal import principal_loss
from kdjax.objectives.relational import pkt_loss, rkd_loss, similarity_loss
from kdjax.objectives.representation import cka_loss, procrustes_loss
from kdjax.objectives.sigmoid import siglip_distill_loss, siglip_loss
from kdjax.objectives.soft_targets import (
    affinity_loss,
    multi_teacher_loss,
    open_clip_distill_loss,
)
from kdjax.objectives.tokens import hidden_loss, tokens_loss

# Values are checked by `expand`, being what a user wrote: mappings of options.
Spec = Mapping[str, Any] | str
Of = Literal["pairs", "classes"]


@dataclass(frozen=True)
class Entry:
    """What the combining module must know of an objective.

    Attributes:
        function: (student, teacher, **options) -> scalar or sum over pairs, teachers in
            its place if it takes all; or (student, **options) -> the same where no
            teacher is needed.
        weight: the default weight.
        weights: default weights that go with a chosen option, as (option, choice).
        options: what may stand beside the weight.
        by_rows: whether it has `block_rows`, being quadratic and no sum over pairs.
        needs_teacher: whether the teacher is an argument.
        takes_all: whether it takes a tuple of all teachers, also of one; one that does
            not is, with several, the mean of its values against each of them.
        needs: fields of embeddings beside image, text and scalars, of both sides; but
            masked_image is of the student alone.
        learns: what it shares with others that name the same, for each teacher:
            "projection", the student comes in the teacher's width;
            "scale", the function's `scale`, whose form the option `scale` names;
            "fusion", its `fusion` and a `scale` of their own;
            "tokens", its `adaptor`; "hidden", its `adaptors`; "basis", its `basis`;
            "bias", the student comes with a logit bias, if it has none; one for all
            teachers.
        of: what it compares: "pairs" of images and texts, or "classes".
    """

    function: Callable[..., Array | PairSum]
    weight: float = 1.0
    weights: Mapping[tuple[str, str], float] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    by_rows: bool = False
    needs_teacher: bool = True
    takes_all: bool = False
    needs: tuple[str, ...] = ()
    learns: tuple[str, ...] = ()
    of: Of = "pairs"


WEIGHT = Option(1.0, least=0.0, scheduled=True)
TEACHER_SCALE = Option(
    "calibrated", choices=("calibrated", "own"), least=1e-6, scheduled=True
)
DUPLICATES = Option("negative", choices=("negative", "mask", "spread"))
SCALE_FORM = Option("raw", choices=("raw", "exp"))

FD = Entry(
    fd_loss,
    weight=3.9,
    weights={("reduction", "mean"): 2000.0},
    options={"reduction": Option("sum", choices=("sum", "mean"))},
    learns=("projection",),
)


def factor(default: float) -> Option:
    """Return the option of a part's weight within an objective."""
    return Option(default, least=0.0)


def temperature(default: float) -> Option:
    """Return the option of what logits are divided by."""
    return Option(default, least=1e-3, scheduled=True)


TOKENS = {
    "form": Option("radio", choices=("radio", "phi_s")),
    "cosine": factor(0.9),
    "smooth_l1": factor(0.1),
}

REGISTRY: Mapping[str, Entry] = {
    "clip": Entry(clip_loss, options={"duplicates": DUPLICATES}, needs_teacher=False),
    "siglip": Entry(
        siglip_loss,
        options={"duplicates": DUPLICATES},
        needs_teacher=False,
        learns=("bias",),
    ),
    "crd": Entry(crd_loss, options={"teacher_scale": TEACHER_SCALE}),
    "fd": FD,
    "mfd": replace(FD, function=mfd_loss, needs=("masked_image",)),
    "icl": Entry(
        icl_loss,
        options={"scale": SCALE_FORM, "duplicates": DUPLICATES},
        learns=("projection", "scale"),
    ),
    "cross_kd": Entry(
        cross_kd_loss,
        options={"scale": SCALE_FORM, "teacher_scale": TEACHER_SCALE},
        learns=("projection", "scale"),
    ),
    "gd": Entry(
        gd_loss,
        weights={("form", "released"): 1e8},
        options={
            "form": Option("unit", choices=("unit", "paper", "released")),
            "teacher_scale": TEACHER_SCALE,
        },
        by_rows=True,
        learns=("projection",),
    ),
    "afd": Entry(
        afd_loss,
        options={"scale": SCALE_FORM, "duplicates": DUPLICATES},
        learns=("fusion",),
    ),
    "open_clip_distill": Entry(
        open_clip_distill_loss, options={"teacher_scale": TEACHER_SCALE}
    ),
    "affinity": Entry(
        affinity_loss,
        options={
            "student_scale": Option(
                "own", choices=("own",), least=1e-6, scheduled=True
            ),
            "teacher_scale": TEACHER_SCALE,
            "image_image": factor(0.0),
            "text_text": factor(0.0),
        },
    ),
    "multi_teacher": Entry(
        multi_teacher_loss,
        options={
            "teacher_scale": TEACHER_SCALE,
            "average": Option(
                "probabilities", choices=("probabilities", "divergences")
            ),
        },
        takes_all=True,
    ),
    "siglip_distill": Entry(
        siglip_distill_loss,
        options={
            "temperature": temperature(1.0),
            "form": Option("soft", choices=("soft", "mobileclip2")),
            "teacher_scale": replace(TEACHER_SCALE, default="own"),
            "teacher_bias": Option("own", choices=("own",), least=-1e4),
        },
        takes_all=True,
        learns=("bias",),
    ),
    "similarity": Entry(
        similarity_loss,
        options={
            "form": Option("mse", choices=("mse", "kl")),
            "temperature": temperature(0.07),
        },
    ),
    "rkd": Entry(
        rkd_loss,
        options={
            "distance": factor(25.0),
            "angle": factor(50.0),
            "seed": Option(0.0, least=0.0),
        },
        by_rows=True,
    ),
    "pkt": Entry(pkt_loss),
    "cka": Entry(
        cka_loss,
        options={"estimator": Option("biased", choices=("biased", "debiased"))},
    ),
    "procrustes": Entry(procrustes_loss),
    "dist": Entry(
        dist_loss,
        options={
            "beta": factor(2.0),
            "gamma": factor(2.0),
            "temperature": temperature(1.0),
            "teacher_scale": TEACHER_SCALE,
        },
    ),
    "logit_std": Entry(logit_std_loss, options={"temperature": temperature(2.0)}),
    "dime_fm": Entry(
        dime_fm_loss,
        options={
            "image_text": factor(0.7),
            "image_image": factor(0.3),
            "image_text_temperature": temperature(1.0),
            "image_image_temperature": temperature(3.0),
        },
        learns=("projection",),
    ),
    "tokens": Entry(
        tokens_loss, options=TOKENS, needs=("image_tokens",), learns=("tokens",)
    ),
    "hidden": Entry(
        hidden_loss,
        options={"layers": LAYERS, **TOKENS},
        needs=("image_hidden",),
        learns=("hidden",),
    ),
    "attention": Entry(
        attention_loss,
        options={
            "layers": LAYERS,
            "heads": Option("mean", choices=("mean", "matched")),
        },
        needs=("image_attention",),
    ),
    "principal": Entry(
        principal_loss,
        weight=3.9,
        options={"components": Option(1.0, least=1e-6, most=1.0, scheduled=True)},
        learns=("projection", "basis"),
    ),
    "bce": Entry(bce_loss, needs_teacher=False, of="classes"),
    "hinton": Entry(
        hinton_loss,
        options={
            "temperature": temperature(4.0),
            "form": Option("softmax", choices=("softmax", "sigmoid")),
        },
        of="classes",
    ),
    "dkd": Entry(
        dkd_loss,
        options={
            "alpha": factor(1.0),
            "beta": factor(0.5),
            "temperature": temperature(1.0),
        },
        of="classes",
    ),
}

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "clip_kd": {"clip": {}, "crd": {}, "icl": {}, "fd": {}},
    # As released: each teacher's own scale, a loss that weakens with its width.
    "clip_kd_legacy": {
        "clip": {},
        "crd": {"teacher_scale": "own"},
        "icl": {},
        "fd": {"reduction": "mean"},
    },
    # As MobileCLIP's scripts, whose two teachers both have that scale: no other loss.
    "mobile_clip": {"multi_teacher": {"teacher_scale": 100.0}},
    # As TinyCLIP's scripts: no other loss, and no scale is learnt.
    "tiny_clip": {"affinity": {"student_scale": 50.0, "teacher_scale": 50.0}},
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
            raise UserError(unknown("preset of objectives", spec, PRESETS))
        spec = PRESETS[spec]
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(
            f"objectives are {spec!r}; give a preset ({', '.join(PRESETS)}) or names "
            "with options, such as {'clip': {}, 'fd': {'weight': 2.0}}"
        )
    return {name: _filled(name, options) for name, options in spec.items()}


def check_of(spec: Spec, of: Of) -> None:
    """Check that objectives compare what a run has.

    Raises:
        UserError: as `expand`; or one compares something else.
    """
    for name in expand(spec):
        if REGISTRY[name].of != of:
            possible = [other for other, entry in REGISTRY.items() if entry.of == of]
            raise UserError(
                f"objective {name} is of {REGISTRY[name].of} and this run has {of}: "
                f"choose among {', '.join(possible)}"
            )


def needing_teacher(spec: Spec) -> list[str]:
    """Return which objectives learn from a teacher.

    Raises:
        UserError: as `expand`.
    """
    return [name for name in expand(spec) if REGISTRY[name].needs_teacher]


def _filled(name: str, given: Any) -> dict[str, Any]:
    if name not in REGISTRY:
        raise UserError(unknown("objective", name, REGISTRY))
    if not isinstance(given, Mapping):
        raise UserError(f"objective {name} has {given!r}; give a mapping of options")
    entry = REGISTRY[name]
    check_options(name, given, {"weight": WEIGHT, **entry.options})
    defaults = {key: option.default for key, option in entry.options.items()}
    chosen = {**defaults, **{key: static(value) for key, value in given.items()}}
    fitting = [w for (key, choice), w in entry.weights.items() if chosen[key] == choice]
    return {"weight": fitting[0] if fitting else entry.weight, **chosen}

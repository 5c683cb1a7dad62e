"""What the config of every command holds, checked before anything is made."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdjax.commands.calibration import HELD_OUT, check_one, check_pairs, wanted_scales
from kdjax.commands.common import source_of
from kdjax.commands.contrastive import check_caption_length
from kdjax.commands.export import EXPORTED
from kdjax.commands.names import teacher_names
from kdjax.commands.start import check_inherit
from kdjax.commands.vqa_teacher import check_taught
from kdjax.config import to_plain
from kdjax.data.loader import check_batch
from kdjax.errors import UserError
from kdjax.evaluation.registry import EVALUATORS, check_evaluators
from kdjax.models import TOWERS
from kdjax.models.config import check_heads
from kdjax.models.zoo import ARCHITECTURES, architecture
from kdjax.objectives import check_of
from kdjax.parallel import FROZEN, check_rows, make_mesh
from kdjax.training.optimizer import SCHEDULES
from kdjax.training.rules import RULES


@dataclass(frozen=True)
class Number:
    """A number that a config may give.

    Attributes:
        least: the smallest.
        most: the largest.
        whole: whether it is an integer.
    """

    least: int | float = 0
    most: int | float = math.inf
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether `value` is such a number."""
        kinds = int if self.whole else int | float
        number = isinstance(value, kinds) and not isinstance(value, bool)
        return number and self.least <= value <= self.most and value < self._beyond

    @property
    def _beyond(self) -> int | float:
        """What no array of 32 bits holds, where there is no other end."""
        if self.most < math.inf:
            return math.inf
        return 2**31 if self.whole else 1e38

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.most < math.inf:
            return f"{kind} from {self.least} to {self.most}"
        return f"{kind} of at least {self.least} and below {self._beyond}"


@dataclass(frozen=True)
class Word:
    """A word that a config may give.

    Attributes:
        words: that it may be.
    """

    words: tuple[str, ...]

    def holds(self, value: Any) -> bool:
        """Return whether `value` is one of the words."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return " or ".join(self.words)


@dataclass(frozen=True)
class Kind:
    """A value of some type.

    Attributes:
        type: that it must have.
        what: it is, for people.
        empty: whether it may be.
    """

    type: Any
    what: str
    empty: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether `value` is of the type, and not empty unless it may be."""
        return isinstance(value, self.type) and (self.empty or bool(value))

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Each:
    """A mapping of names that are open to values of one sort.

    Attributes:
        value: what each of them is.
        what: they are, for people.
    """

    value: Number
    what: str

    def holds(self, value: Any) -> bool:
        """Return whether `value` is a mapping of such values."""
        if not isinstance(value, Mapping):
            return False
        return all(isinstance(k, str) and self.value.holds(v) for k, v in value.items())

    def __str__(self) -> str:
        return self.what


COUNT = Number(1, whole=True)
NAME = Kind(str, "a name")
NAME_OR_NONE = Kind(str, "a name, or '' for none", empty=True)
CONFIG = Kind(Mapping, "a config of that command")
FRACTION = Number(0, 1)
POSITIVE = Number(1e-12)
# Of a moment; one of 1 would never move.
DECAY = Number(0, 0.999999)
RATES = Each(Number(), "a mapping of patterns of parameters to numbers of at least 0")
SEED = Number(0, 2**32 - 1, whole=True)
AXIS = Number(-1, whole=True)
# Computed once and held, for data that fits in memory, or computed in every step.
OUTPUTS = Word(("held", "computed"))
# What is checked by the room that reads it: names, choices, mappings of options.
ELSEWHERE = None

Schema = Mapping[str, Any]

DATA = {"data": Kind(Mapping, "a mapping with a name"), "eval": {"split": ELSEWHERE}}
DTYPE = Word(("auto", "float32", "bfloat16"))
COMPUTE = {
    "dtype": DTYPE,
    "attention": Word(("xla", "cudnn", "splash")),
}
REMAT = Word(("none", "dots", "full"))
# Of a frozen teacher: where it lives, and in what it is held and computes.
FROZEN_TEACHER = {"teacher_sharding": Word(tuple(FROZEN)), "teacher_dtype": DTYPE}
TRAINING: dict[str, Any] = {
    **DATA,
    **COMPUTE,
    "param_dtype": Word(("float32", "bfloat16")),
    "remat": {"vision": REMAT},
    "tokenizer": NAME,
    "seed": SEED,
    "steps": Number(0, whole=True),
    "batch_size": COUNT,
    "microbatch": Number(0, whole=True),
    "mesh": {"data": AXIS, "fsdp": AXIS, "tensor": AXIS},
    "optimizer": {
        "name": Word(tuple(RULES)),
        "schedule": Word(tuple(SCHEDULES)),
        "learning_rate": Number(),
        "weight_decay": Number(),
        "warmup": FRACTION,
        "b1": DECAY,
        "b2": DECAY,
        "clip_norm": Number(),
        "layer_decay": Number(1e-3, 1),
        "rates": RATES,
        "ema": DECAY,
        "max_logit_scale": POSITIVE,
    },
    "eval": {
        "split": ELSEWHERE,
        "every_steps": Number(0, whole=True),
        "evaluators": ELSEWHERE,
    },
    "log_every": COUNT,
    "max_nonfinite": COUNT,
    "profile": ELSEWHERE,
    "wandb": ELSEWHERE,
    "checkpoint": {
        "every_steps": COUNT,
        "every_minutes": Number(),
        "keep": COUNT,
        "best": Kind(str, "an evaluator's number, or '' for the last step", empty=True),
        "best_mode": Word(("max", "min")),
    },
}
CONTRASTIVE = {
    **TRAINING,
    "remat": {"vision": REMAT, "text": REMAT},
    "caption_length": COUNT,
    "objectives": ELSEWHERE,
    "parts": Word(("all", *TOWERS)),
}
SCHEMAS: Mapping[str, Schema] = {
    "pretrain": {**CONTRASTIVE, "model": NAME},
    "distill": {
        **CONTRASTIVE,
        **FROZEN_TEACHER,
        "student": NAME,
        "teacher": NAME,
        "inherit": Word(("none", "index", "magnitude")),
        "inherit_from": NAME,
        "text_tower": Word(("own", "teacher")),
        "teacher_outputs": OUTPUTS,
        "teacher_scale": ELSEWHERE,
        "teacher_entropy": POSITIVE,
    },
    "calibrate": {
        **DATA,
        **COMPUTE,
        "teacher": NAME,
        "teacher_entropy": POSITIVE,
        "batch_size": COUNT,
    },
    "vqa": {
        **TRAINING,
        **FROZEN_TEACHER,
        "tower": NAME,
        "tower_outputs": OUTPUTS,
        "teacher": NAME_OR_NONE,
        "objectives": ELSEWHERE,
        "question_length": COUNT,
        "questions_per_image": COUNT,
        "head": {
            "question_layers": Number(0, whole=True),
            "width": COUNT,
            "layers": COUNT,
            "num_heads": COUNT,
        },
    },
    "chain": {"distill": CONFIG, "stages": ELSEWHERE},
    "export": {"checkpoint": NAME, "format": Word(EXPORTED)},
    "eval": {**DATA, **COMPUTE, "model": NAME},
    "study": {
        "title": ELSEWHERE,
        "pretrain": CONFIG,
        "distill": CONFIG,
        "vqa": CONFIG,
        "vqa_teacher": CONFIG,
        "teachers": ELSEWHERE,
        "students": ELSEWHERE,
        "objectives": ELSEWHERE,
        "seeds": ELSEWHERE,
        "bootstrap_draws": COUNT,
    },
}


def check_config(
    command: str, config: ConfigDict, workdir: epath.PathLike | None = None
) -> None:
    """Check what can be known of a config before anything is made.

    Args:
        command: that the config is of.
        config: of a run.
        workdir: of the run, where it is known.

    Raises:
        UserError: a key is unknown (the nearest is named) or missing, a number is out
            of its range, a word is none of those that may stand there, the batch cannot
            be split over the mesh or is more than the data, or there is no such split
            or objective.
    """
    check_words(command, config)
    if "mesh" in config:
        check_split(config, make_mesh(dict(config.mesh)))
    if "data" in config:
        source_of(config, config.eval.split)
    if command == "calibrate":
        check_one(teacher_names(config.teacher))
        check_pairs(source_of(config, config.eval.split), config.batch_size)
    if "steps" in config:
        check_batch(source_of(config, "train"), config.batch_size)
        check_evaluators(config.eval.evaluators, "vqa" if command == "vqa" else "clip")
        check_profile(config.profile, config.steps, workdir)
        check_best(config)
    if "data" in config and "objectives" in config:
        objectives = to_plain(config.objectives)
        check_of(objectives, "classes" if command == "vqa" else "pairs")
        if command == "vqa":
            check_taught(objectives, config.teacher)
    trained = config.get("model", config.get("student"))
    own_text = config.get("text_tower", "own") == "own"
    if "caption_length" in config and own_text and trained in ARCHITECTURES:
        check_caption_length(config.caption_length, architecture(trained))
    if "inherit" in config:
        check_inherit(config.inherit, config.student, config.inherit_from)
    if "teacher_scale" in config:
        teachers = teacher_names(config.teacher)
        if "match_entropy" in wanted_scales(config.teacher_scale, len(teachers)):
            check_pairs(source_of(config, HELD_OUT), config.batch_size)
    if "head" in config:
        check_heads(config.head.width, config.head.num_heads)


def check_words(command: str, config: ConfigDict) -> None:
    """Check the keys of a config and what each alone may be.

    Raises:
        UserError: a key is unknown (the nearest is named) or missing, a number is out
            of its range, or a word is none of those that may stand there.
    """
    _check(command, "", SCHEMAS[command], to_plain(config))


def check_split(config: ConfigDict, mesh: Mesh) -> None:
    """Check that the batch of a config, and its parts, can be split over a mesh.

    Raises:
        UserError: they cannot.
    """
    check_rows("batch_size", config.batch_size, mesh)
    if config.microbatch:
        check_rows("microbatch", config.microbatch, mesh)
        check_parts(config.batch_size, config.microbatch)


def command_of(config: ConfigDict) -> str:
    """Return which command that trains once a config is of, by its keys.

    Raises:
        UserError: it is of none of them.
    """
    for command, key in (
        ("distill", "student"),
        ("vqa", "tower"),
        ("pretrain", "model"),
    ):
        if key in config and "steps" in config:
            return command
    raise UserError(
        "the config is of none of pretrain, distill and vqa: give one of those, of a "
        "chain or a study that of a single run"
    )


def check_profile(steps: Any, last: int, workdir: epath.PathLike | None = None) -> None:
    """Check that a trace is of no steps, or of the first and the last one.

    Args:
        steps: to trace.
        last: step of the run.
        workdir: where it goes, which is no bucket: the profiler does not write there.

    Raises:
        UserError: it is not.
    """
    if steps == ():
        return
    numbers = isinstance(steps, tuple) and all(COUNT.holds(step) for step in steps)
    if not numbers or len(steps) != 2 or steps[0] > steps[1]:
        raise UserError(
            f"profile is {steps!r}; give a first and a last step to trace, such as "
            "(10,12), or () for none"
        )
    if steps[0] > last:
        raise UserError(
            f"profile is {steps!r}, and the run has {last} steps: give steps that it "
            "makes, or () for none"
        )
    if "://" in str(workdir):
        raise UserError(
            f"profile is {steps!r}, and a trace cannot be written to {workdir}: give a "
            "--workdir that is a local folder, or leave profile empty"
        )


def check_best(config: ConfigDict) -> None:
    """Check that there is something to choose the best step by, and among.

    Raises:
        UserError: there is not.
    """
    best, scored = config.checkpoint.best, config.eval
    known = [f"{scored.split}/{EVALUATORS[x].number}" for x in scored.evaluators]
    if best and best not in known:
        raise UserError(
            f"checkpoint.best is {best!r}; give {' or '.join(known)}, which "
            "eval.evaluators find, or '' for the last step"
        )
    if best and not scored.every_steps:
        raise UserError(
            f"checkpoint.best is {best!r} and eval.every_steps 0, so the last step "
            "alone is scored: set eval.every_steps"
        )


def check_parts(batch_size: int, microbatch: int) -> None:
    """Check that a batch can be seen in parts of so many rows.

    Raises:
        UserError: it cannot.
    """
    if batch_size % microbatch:
        raise UserError(
            f"microbatch {microbatch} does not divide batch_size {batch_size}: choose "
            "one that does, or 0 for all rows at once"
        )


def _check(command: str, path: str, schema: Any, value: Any) -> None:
    if isinstance(schema, Number | Word | Kind | Each):
        if not schema.holds(value):
            raise UserError(f"{path} is {value!r}; give {schema}")
    elif isinstance(schema, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} is {value!r}; give {', '.join(schema)}")
        for key in value:
            if key not in schema:
                raise UserError(f"a config of {command} {_unknown(path, key, schema)}")
        for key in schema:
            inner = f"{path}.{key}" if path else key
            if key not in value:
                raise UserError(
                    f"a config of {command} needs the key {inner!r}; is it the config "
                    "of another command?"
                )
            _check(command, inner, schema[key], value[key])


def _unknown(path: str, key: str, schema: Schema) -> str:
    near = difflib.get_close_matches(key, schema, n=1)
    place = f"has no key {f'{path}.{key}' if path else key!r}"
    if near:
        return f"{place}; did you mean {near[0]!r}?"
    return f"{place}; there are {', '.join(sorted(schema))}"

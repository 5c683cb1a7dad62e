"""From a study's config to the runs that answer its question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from kdjax.config import config_hash
from kdjax.errors import UserError


@dataclass(frozen=True)
class PlannedRun:
    """One command with its config; its name is its identity.

    Attributes:
        command: pretrain, distill or vqa.
        config: what the command gets.
    """

    command: str
    config: ConfigDict

    @property
    def hash(self) -> str:
        """What tells it from the study's others: the hash of its command and config."""
        return config_hash(self.command, self.config)

    @property
    def name(self) -> str:
        """The run's folder: the command and the hash."""
        return f"{self.command}-{self.hash}"


@dataclass(frozen=True)
class Entry:
    """One row of the results: a model, how it is trained and how it is scored.

    Attributes:
        kind: teacher, baseline, student or control.
        name: for people.
        teacher: name of the teacher, of students.
        student: architecture, of students and baselines.
        objectives: name of the set, of students and baselines.
        seed: of the run.
        clip: trains the model from captions; None for a control.
        vqa: fine-tunes and scores it.
    """

    kind: str
    name: str
    teacher: str | None
    student: str | None
    objectives: str | None
    seed: int
    clip: PlannedRun | None
    vqa: PlannedRun


def _with(base: ConfigDict, changes: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    """Return a copy of a config with some values changed."""
    config = base.copy_and_resolve_references()
    # The types are checked with everything else, when the plan is there.
    with config.ignore_type():
        for key, value in changes.items():
            if key not in config:
                raise UserError(
                    f"a study sets {key!r}, which the config of its runs does not "
                    f"have; there are {', '.join(sorted(config))}"
                )
            config[key] = value
    return config


def plan(config: ConfigDict) -> list[Entry]:
    """Return a study's entries, teachers before their students.

    A study's config has `pretrain`, `distill`, `vqa` and `vqa_teacher` (whole configs
    of those commands), `teachers` (name -> changes to `pretrain`), `students`
    (architectures), `objectives` (name -> objectives) and `seeds`.
    """
    _check_axes(config)
    for key in ("students", "seeds"):
        if len(set(config[key])) < len(config[key]):
            raise UserError(f"{key} are {tuple(config[key])}; give each of them once")
    for key in ("data", "eval"):
        if config.vqa[key] != config.vqa_teacher[key]:
            raise UserError(
                f"vqa.{key} and vqa_teacher.{key} differ: teachers and students are "
                "compared on the same questions, so set both alike"
            )
    entries = [_teacher(config, name) for name in config.teachers]
    folders = {entry.name: _clip_name(entry) for entry in entries}
    for student in config.students:
        entries += [_baseline(config, student, seed) for seed in config.seeds]
        for objectives in config.objectives:
            for teacher, folder in folders.items():
                entries += [
                    _student(config, student, seed, objectives, teacher, folder)
                    for seed in config.seeds
                ]
    return [*entries, _blanked(config)]


def _check_axes(config: ConfigDict) -> None:
    """Check what the grid is made of, before there are runs to check.

    Raises:
        UserError: an axis is empty or of the wrong kind.
    """
    kinds = {
        "teachers": (Mapping | ConfigDict, "names with changes to pretrain"),
        "students": (Sequence, "architectures"),
        "objectives": (Mapping | ConfigDict, "names with sets of objectives"),
        "seeds": (Sequence, "whole numbers"),
    }
    for key, (kind, what) in kinds.items():
        value = config[key]
        if not isinstance(value, kind) or isinstance(value, str) or not len(value):
            raise UserError(
                f"{key} of a study are {value!r}; give at least one: {what}"
            )
    for key, kind in (("students", str), ("seeds", int)):
        for value in config[key]:
            if not isinstance(value, kind):
                what = kinds[key][1]
                raise UserError(f"{key} of a study hold {value!r}; give {what}")
    for name, changes in config.teachers.items():
        if not isinstance(changes, Mapping | ConfigDict):
            raise UserError(
                f"teacher {name} of a study is {changes!r}; give changes to pretrain, "
                "such as {'steps': 300}"
            )


def _clip_name(entry: Entry) -> str:
    assert entry.clip is not None
    return entry.clip.name


def _vqa_of(base: ConfigDict, clip: PlannedRun, seed: int) -> PlannedRun:
    return PlannedRun("vqa", _with(base, {"tower": clip.name, "seed": seed}))


def _teacher(config: ConfigDict, name: str) -> Entry:
    changes = {
        key: _with(config.pretrain[key], value)
        if key != "objectives" and isinstance(value, Mapping | ConfigDict)
        else value
        for key, value in config.teachers[name].items()
    }
    clip = PlannedRun("pretrain", _with(config.pretrain, changes))
    seed = clip.config.seed
    if seed in config.seeds:
        # A student that starts where its teacher did, and sees the same batches, finds
        # the way back more easily than any other would.
        raise UserError(
            f"teacher {name} has the seed {seed}, which is one of the students' seeds "
            f"{tuple(config.seeds)}: give pretrain.seed another"
        )
    vqa = _vqa_of(config.vqa_teacher, clip, seed)
    return Entry("teacher", name, None, None, None, seed, clip, vqa)


def _baseline(config: ConfigDict, student: str, seed: int) -> Entry:
    """Return the student without a teacher: as many steps on the same data.

    The rest is `pretrain`'s, so that it too has the learning rate that suits it.
    """
    same = {key: config.distill[key] for key in ("steps", "batch_size", "data")}
    own = {"objectives": {"clip": {}}, "model": student, "seed": seed}
    clip = PlannedRun("pretrain", _with(config.pretrain, {**same, **own}))
    vqa = _vqa_of(config.vqa, clip, seed)
    name = f"{student} alone"
    return Entry("baseline", name, None, student, "clip", seed, clip, vqa)


def _student(
    config: ConfigDict,
    student: str,
    seed: int,
    objectives: str,
    teacher: str,
    folder: str,
) -> Entry:
    changes = {
        "student": student,
        "teacher": folder,
        "objectives": config.objectives[objectives],
        "seed": seed,
    }
    clip = PlannedRun("distill", _with(config.distill, changes))
    vqa = _vqa_of(config.vqa, clip, seed)
    name = f"{student} from {teacher} by {objectives}"
    return Entry("student", name, teacher, student, objectives, seed, clip, vqa)


def _blanked(config: ConfigDict) -> Entry:
    """Return the control that never sees an image, neither in training nor in test."""
    vqa = _with(config.vqa, {"tower": config.students[0]})
    vqa.data.blank = True
    run = PlannedRun("vqa", vqa)
    return Entry("control", "blanked", None, None, None, vqa.seed, None, run)

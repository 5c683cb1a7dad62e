"""`kdjax chain`: distil runs one after another, each from the run before it."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax import hosts
from kdjax.commands.calibration import check_stored
from kdjax.commands.names import (
    TEACHER,
    check_name,
    directory_of,
    named_models,
    named_runs,
    run_folder,
    teacher_names,
)
from kdjax.commands.reporter import Reporter
from kdjax.commands.run import run_command
from kdjax.commands.schema import check_config
from kdjax.commands.start import check_sizes
from kdjax.commands.workdir import Workdir, folder_of
from kdjax.errors import UserError
from kdjax.files import copy_file, make_folder
from kdjax.hub import ENVIRONMENT, MODEL, family_of, find_model

# The word for the run of the stage before, and the keys where it may stand.
PREVIOUS = "previous"
GIVERS = ("teacher", "inherit_from")
# Values that a stage replaces whole, where of other mappings it changes some keys.
WHOLE = ("data", "objectives", "rates")
TOLD = ("steps", "zero_shot_accuracy", "calibrated_scale", "seconds")


@dataclass(frozen=True)
class Stage:
    """One distil run of a chain.

    Attributes:
        name: of its folder inside the chain's workdir.
        config: what `distill` gets.
        before: what its config calls the run of the stage before; "" if it does not.
    """

    name: str
    config: ConfigDict
    before: str


def run_chain(
    config: ConfigDict, path: epath.PathLike, reporter: Reporter
) -> dict[str, Any]:
    """Make a chain's stages, or what is left of them, and return its results.

    The workdir is then that of a run like any other, whose model is the last stage's.

    Args:
        config: with `distill`, a config of that command, and `stages`, changes to it.
            As `inherit_from`, or among teachers, "previous" is the run of the stage
            before.
        path: the chain's workdir; its runs lie in it, in the folders `1`, `2` and on.
        reporter: tells how far it is.

    Raises:
        UserError: a stage cannot be; nothing is trained before all are checked.
    """
    check_config("chain", config)
    folder = folder_of(path)
    stages = plan_stages(config, folder)
    check_stages(stages, folder)
    workdir = Workdir(path, "chain", config, _made_from(stages, folder))
    done = workdir.finished(sum(stage.config.steps for stage in stages))
    if done is not None:
        reporter.say(f"{workdir.path} is finished already")
        return done
    with workdir.begun():
        results = _make(stages, workdir, reporter)
        workdir.write_json("results.json", results)
        hosts.wait("a chain has ended")
    return results


def _make(
    stages: Sequence[Stage], workdir: Workdir, reporter: Reporter
) -> dict[str, Any]:
    """Make the stages that are left, and return the results of all."""
    folder, told = workdir.path, {}
    for stage in stages:
        place = f"[{stage.name} of {len(stages)}] {stage.config.student}: "
        inner = Reporter(reporter.every, place, reporter.quiet)
        found = run_command("distill", stage.config, folder / stage.name, inner)
        told[stage.name] = {
            "student": stage.config.student,
            **{key: found[key] for key in TOLD},
        }
    _copy_model(folder / stages[-1].name / MODEL, folder / MODEL)
    return {
        "command": "chain",
        "run": workdir.run,
        "steps": sum(stage.config.steps for stage in stages),
        "zero_shot_accuracy": told[stages[-1].name]["zero_shot_accuracy"],
        "seconds": sum(stage["seconds"] for stage in told.values()),
        "stages": told,
    }


def plan_stages(config: ConfigDict, folder: epath.Path) -> list[Stage]:
    """Return the stages of a chain's config.

    Args:
        config: with `distill` and `stages`.
        folder: the chain's workdir.

    Raises:
        UserError: there are no stages, one changes what there is not, or the first
            names the one before it.
    """
    if not isinstance(config.stages, Sequence) or not len(config.stages):
        raise UserError(
            f"stages of a chain are {config.stages!r}; give at least one: changes to "
            "distill, such as {'student': 'mini-8'}"
        )
    stages = []
    for number, changes in enumerate(config.stages, start=1):
        made = _changed(config.distill, changes, f"stages[{number - 1}]")
        previous = [key for key in GIVERS if PREVIOUS in _names(made, key)]
        if previous and number == 1:
            raise UserError(
                f"the first stage of a chain has the {previous[0]} {PREVIOUS!r}, and "
                "there is no stage before it: name a run, a directory or a hub name"
            )
        last = str(number - 1)
        before = _called(folder / last, last) if previous else ""
        for key in ("student", *GIVERS):
            called = [
                before if name == PREVIOUS and key in GIVERS else _beside(name, folder)
                for name in _names(made, key)
            ]
            if called:
                made[key] = ",".join(called)
        stages.append(Stage(str(number), made, before))
    return stages


def _names(config: ConfigDict, key: str) -> tuple[str, ...]:
    """Return the models that a stage names by a key; none by what is no name."""
    value = config.get(key)
    if key == "teacher":
        return teacher_names(value)
    own_teacher = (key, value) == ("inherit_from", TEACHER)
    return (value,) if isinstance(value, str) and not own_teacher else ()


def _changed(base: ConfigDict, changes: Any, where: str) -> ConfigDict:
    """Return a copy of a config with some values changed, those of mappings too."""
    if not isinstance(changes, Mapping | ConfigDict):
        raise UserError(f"{where} of a chain is {changes!r}; give a mapping of changes")
    config = base.copy_and_resolve_references()
    # Types are checked with everything else, when all stages are there.
    with config.ignore_type():
        for key, value in changes.items():
            if key not in config:
                near = difflib.get_close_matches(key, config, n=1, cutoff=0.0)
                raise UserError(
                    f"{where} of a chain sets {key!r}, which its distill does not "
                    f"have; did you mean {near[0]!r}?"
                )
            if isinstance(config[key], ConfigDict) and key not in WHOLE:
                value = _changed(config[key], value, f"{where}.{key}")
            config[key] = value
    return config


def _beside(name: str, folder: epath.Path) -> str:
    """Return what a model that a chain names is called in its stages' folders."""
    found = run_folder(name, folder)
    if found is None or found == epath.Path(name):
        return name
    return _called(found, f"../{name}")


def _called(run: epath.Path, name: str) -> str:
    """Return the name of a run relative to a stage, so that chains can be moved.

    Raises:
        UserError: from where the command is run it is the name of another.
    """
    if "://" in str(run):
        return str(run)
    here = epath.Path(name)
    if (here / ENVIRONMENT).exists() and here.resolve() != run.resolve():
        raise UserError(
            f"there is a run in {here.resolve()}, which would be taken for that in "
            f"{run}: run the chain from another folder"
        )
    return name


def check_stages(stages: Sequence[Stage], folder: epath.Path) -> None:
    """Find now what is wrong with a stage, and not when it is its turn.

    Args:
        stages: of a chain.
        folder: the chain's workdir.

    Raises:
        UserError: a config cannot be, a model is not there, or a student does not fit
            into that of the stage before, whose weights it is to inherit.
    """
    before = ""
    for stage in stages:
        try:
            _check_stage(stage, before, folder / stage.name)
        except UserError as error:
            raise UserError(f"stage {stage.name} of the chain: {error}") from error
        before = stage.config.student


def _check_stage(stage: Stage, student_before: str, place: epath.Path) -> None:
    config = stage.config
    check_config("distill", config, place)
    check_name(config.student, place)
    teachers = teacher_names(config.teacher)
    whole = teachers[0] if config.inherit_from == TEACHER else config.inherit_from
    if whole == stage.before:
        check_sizes(config.inherit, config.student, student_before)
    for name in dict.fromkeys((*teachers, whole)):
        if name != stage.before:
            family_of(find_model(directory_of(name, place)))
    check_stored(teachers, config.teacher_scale, (stage.before,))


def _made_from(stages: Sequence[Stage], folder: epath.Path) -> dict[str, Any]:
    """Return what is known of what the stages name besides each other."""
    known = {}
    for stage in stages:
        found = named_runs(stage.config, folder / stage.name)
        previous = [
            k for k, v in named_models(stage.config).items() if v == stage.before
        ]
        known[stage.name] = {k: v for k, v in found.items() if k not in previous}
    return {name: found for name, found in known.items() if found}


def _copy_model(source: epath.Path, target: epath.Path) -> None:
    """Copy a model, weights first: what has its config can be opened."""
    make_folder(target)
    for file in sorted(source.iterdir(), key=lambda file: file.suffix == ".json"):
        copy_file(file, target / file.name)

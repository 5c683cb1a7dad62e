"""What the names of models in a config stand for."""

import os.path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax.commands.calibration import stored_scale, wanted_scales
from kdjax.config import config_hash
from kdjax.errors import UserError
from kdjax.files import read_json
from kdjax.hub import CONFIG, ENVIRONMENT, MODEL, OPEN_CLIP_CONFIG
from kdjax.models import architecture
from kdjax.models.zoo import ARCHITECTURES
from kdjax.training.checkpoints import steps_of
from kdjax.weights import has_weights

# As `inherit_from`, the config's own teacher and not a run of that name.
TEACHER = "teacher"


def directory_of(name: str, workdir: epath.Path) -> str:
    """Return the directory of a model with weights, or its name on the hub.

    Args:
        name: that a config gives it, see `open_model`.
        workdir: of the run that asks.

    Raises:
        UserError: it has no weights, or there is nothing of that name.
    """
    if name in ARCHITECTURES:
        raise UserError(
            f"{name!r} is an architecture without weights: name a run, a directory or "
            "a hub name"
        )
    path = run_folder(name, workdir)
    if path is None:
        check_name(name, workdir)
        return name
    return model_of(path)


def under_way(run: epath.Path) -> int:
    """Return the step of a run's newest checkpoint if it is past its results; else 0.

    So it is until a run has ended, and when it then goes on for more steps.
    """
    newest = max(steps_of(run), default=0)
    return newest if newest > (_results(run).get("steps") or 0) else 0


def _results(run: epath.Path) -> dict[str, Any]:
    file = run / "results.json"
    return read_json(file) if file.exists() else {}


def is_described(directory: epath.Path) -> bool:
    """Return whether a directory says what CLIP model it is of, with weights or not."""
    return any((directory / name).exists() for name in (CONFIG, OPEN_CLIP_CONFIG))


def run_folder(name: str, workdir: epath.Path) -> epath.Path | None:
    """Return the workdir of the run that a config names, or None if it is no run.

    Args:
        name: a path, or the name of a folder beside `workdir`; that of an architecture
            is never a run.
        workdir: of the run that asks.
    """
    return None if name in ARCHITECTURES else _run_at(name, workdir)


def _run_at(name: str, workdir: epath.Path) -> epath.Path | None:
    beside = workdir.parent / name
    if "://" not in str(beside):
        # A stage of a chain may say "../teacher" before its folder is there.
        beside = epath.Path(os.path.normpath(beside))
    for path in (epath.Path(name), beside):
        if (path / ENVIRONMENT).exists():
            return path
    return None


def run_of(name: str, workdir: epath.Path) -> epath.Path | None:
    """Return the run that a config names by its workdir or by its model's folder."""
    inside = epath.Path(name)
    if inside.name == MODEL:
        return _run_at(str(inside.parent), workdir)
    return run_folder(name, workdir)


def model_of(run: epath.Path) -> str:
    """Return the directory of the CLIP model that a run has made.

    Raises:
        UserError: it has made none, or has not ended.
    """
    directory = run / MODEL
    if not (is_described(directory) and has_weights(directory)):
        raise UserError(
            f"the run in {run} has no CLIP model in its folder {MODEL!r}: let it "
            "finish, or name the run of pretrain or distill"
        )
    check_ended(run)
    return str(directory)


def check_ended(run: epath.Path) -> None:
    """Check that the model in a run's folder, if there is one, is what it has come to.

    Raises:
        UserError: the run has not ended.
    """
    if step := under_way(run):
        raise UserError(
            f"the run in {run} is under way, at step {step}, and leaves its model when "
            "it ends: let it finish"
        )


def named_models(config: ConfigDict) -> dict[str, str]:
    """Return the names of models in a config, by key.

    Of several teachers the keys are "teacher_0", "teacher_1" and on.

    Raises:
        UserError: teachers are no names joined by commas.
    """
    names = {key: config.get(key) for key in ("model", "student", "tower")}
    if config.get("inherit_from") != TEACHER:
        names["inherit_from"] = config.get("inherit_from")
    teachers = teacher_names(config.get("teacher", ""))
    for index, name in enumerate(teachers):
        names["teacher" if len(teachers) == 1 else f"teacher_{index}"] = name
    return {key: name for key, name in names.items() if isinstance(name, str)}


def named_runs(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Return what is known of what a config names: of runs their hash and steps.

    The hash is of what the run was made from too, so that it tells of all before it.

    Raises:
        UserError: it asks for a stored calibration that is not there.
    """
    names = named_models(config)
    teachers = {key: name for key, name in names.items() if key.startswith(TEACHER)}
    scales = wanted_scales(config.get("teacher_scale", "own"), len(teachers))
    found: dict[str, Any] = {}
    for (key, name), scale in zip(teachers.items(), scales, strict=True):
        if scale == "stored":
            directory = directory_of(name, workdir)
            calibrated = key.replace(TEACHER, "calibrated_scale")
            found[calibrated] = stored_scale(directory, config)
    runs = {key: run_of(name, workdir) for key, name in names.items()}
    known = {key: _known(run) for key, run in runs.items() if run is not None}
    return found | {key: of_run for key, of_run in known.items() if of_run}


def _known(run: epath.Path) -> dict[str, Any]:
    """Return which run it is, and how far; nothing of one that has saved nothing."""
    if step := under_way(run):
        asked = read_json(run / CONFIG)
        command, made_from = asked.pop("command"), asked.pop("made_from", None)
        return {"run": config_hash(command, asked, made_from), "checkpoint": step}
    results = _results(run)
    return {key: results.get(key) for key in ("run", "steps")} if results else {}


def teacher_names(teachers: Any) -> tuple[str, ...]:
    """Return the teachers that a config names, joined by commas.

    Raises:
        UserError: a name is empty, or there twice.
    """
    if not isinstance(teachers, str) or not teachers:
        return ()
    names = tuple(name.strip() for name in teachers.split(","))
    if "" in names or len(set(names)) < len(names):
        raise UserError(
            f"teacher is {teachers!r}; give a name, or different ones joined by commas"
        )
    return names


def check_name(name: str, workdir: epath.Path) -> None:
    """Refuse what is no architecture, no folder here and no hub name; name the nearest.

    Raises:
        UserError: it is none of them.
    """
    if epath.Path(name).is_file():
        raise UserError(f"{name} is a file; name a run, a directory or a hub name")
    folders = (epath.Path(name), workdir.parent / name)
    if "/" in name or any(folder.is_dir() for folder in folders):
        return
    try:
        architecture(name)
    except UserError as error:
        raise UserError(
            f"there is no folder {name!r}, here or beside the workdir, and {error}"
        ) from error

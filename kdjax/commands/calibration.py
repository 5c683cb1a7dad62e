"""What calibration a config asks for, and one stored with a teacher in its folder."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax.data.records import Source
from kdjax.errors import UserError
from kdjax.files import read_json, remove_file, write_whole
from kdjax.hub import find_model
from kdjax.objectives.options import BEYOND

CALIBRATION = "calibration.json"
# The split on which a run calibrates its teachers itself.
HELD_OUT = "validation"


def wanted_scales(given: Any, teachers: int) -> tuple[str, ...]:
    """Return the `teacher_scale` of each of so many teachers.

    Args:
        given: one for all, or one for each, joined by commas; a number may be text, as
            on a command line.
        teachers: that there are.

    Raises:
        UserError: there are neither one nor as many, or one is none.
    """
    wanted = tuple(word.strip() for word in str(given).split(","))
    if len(wanted) not in (1, teachers):
        raise UserError(
            f"teacher_scale is {given!r}, {len(wanted)} of them, and the number of "
            f"teachers is {teachers}; give one for all, or as many joined by commas"
        )
    for one in wanted:
        if not _is_scale(one):
            raise UserError(
                f"teacher_scale is {given!r}; give own, match_entropy, stored or a "
                "number above 0"
            )
    return wanted if len(wanted) == teachers else wanted * teachers


def _is_scale(wanted: str) -> bool:
    try:
        return (
            wanted in ("own", "match_entropy", "stored") or 0 < float(wanted) < BEYOND
        )
    except ValueError:
        return False


def check_one(teachers: Sequence[str]) -> None:
    """Check that a calibration is of one teacher.

    Raises:
        UserError: it is of several.
    """
    if len(teachers) > 1:
        raise UserError(
            f"teacher is {','.join(teachers)!r}; a calibration is of one: name one, "
            "and calibrate the others in runs of their own"
        )


def check_pairs(source: Source, batch_size: int) -> None:
    """Check that there are pairs for a batch, at whose size alone an entropy is one.

    Raises:
        UserError: there are too few.
    """
    if len(source) < batch_size:
        raise UserError(
            f"a teacher is calibrated on batches of {batch_size} held-out pairs and "
            f"there are {len(source)} in {source.name} {source.split!r}: choose a "
            "smaller batch_size, or a number as teacher_scale"
        )


def check_stored(teachers: Sequence[str], given: Any, ahead: Collection[str]) -> None:
    """Check that no teacher is to have a stored scale that is not trained yet.

    Args:
        teachers: of a run.
        given: its `teacher_scale`.
        ahead: what is trained first.

    Raises:
        UserError: one is.
    """
    scales = wanted_scales(given, len(teachers))
    for name, scale in zip(teachers, scales, strict=True):
        if name in ahead and scale == "stored":
            raise UserError(
                f"teacher_scale is 'stored', and nothing calibrates the teacher {name} "
                "between its training and its student's: set it to match_entropy"
            )


def check_writable(name: str, directory: str) -> None:
    """Check that a calibration can be stored with a teacher.

    Args:
        name: that the config gives the teacher.
        directory: that it is loaded from, or its name on the hub.

    Raises:
        UserError: the teacher has no folder here.
    """
    if not epath.Path(directory).is_dir():
        raise UserError(
            f"the teacher {name!r} is no folder here, in which a calibration could be "
            "stored: check the spelling, or of a name on the hub make a folder by "
            f"kdjax export --checkpoint={name} --workdir=DIR, and calibrate DIR"
        )


def write_calibration(directory: str, calibration: Mapping[str, Any]) -> None:
    """Store a calibration in a teacher's folder, in place of any that is there.

    Raises:
        UserError: it cannot be written.
    """
    path = epath.Path(directory) / CALIBRATION
    try:
        write_whole(path, (json.dumps(calibration, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): calibrate a copy "
            "of the teacher, by kdjax export"
        ) from error


def stored_scale(directory: str, config: ConfigDict) -> float:
    """Return the scale stored with a teacher, for a run of that config.

    Args:
        directory: that the teacher is loaded from, or its name on the hub.
        config: of the run; an entropy means something only at its batch size.

    Raises:
        UserError: there is none, it is damaged, or for another entropy or batch size.
    """
    path = find_model(directory) / CALIBRATION
    again = "run kdjax calibrate on the teacher"
    if not path.exists():
        raise UserError(
            f"teacher_scale is 'stored' and {path} is missing: {again}, or set "
            "teacher_scale to match_entropy"
        )
    try:
        found = read_json(path)
        made_for = (found["entropy"], found["batch_size"])
        scale = found["scale"]
    except (UserError, KeyError) as error:
        raise UserError(f"{path} holds no calibration: {again}") from error
    if made_for != (config.teacher_entropy, config.batch_size):
        raise UserError(
            f"{path} was made for an entropy of {made_for[0]} nats in batches of "
            f"{made_for[1]}, and the config has teacher_entropy "
            f"{config.teacher_entropy} and batch_size {config.batch_size}: set them "
            f"alike, or {again}"
        )
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UserError(f"{path} holds the scale {scale!r}: {again}")
    return float(scale)


def carry_calibration(source: str, directory: epath.Path) -> None:
    """Take a model's calibration, if it has one, along to a copy of it."""
    path = find_model(source) / CALIBRATION
    if path.exists():
        write_whole(directory / CALIBRATION, path.read_bytes())
    else:
        remove_file(directory / CALIBRATION)

"""`kdjax calibrate`: how sharp a teacher speaks, set once and stored with it."""

import math
from typing import Any

from ml_collections import ConfigDict

from kdjax.commands.calibration import check_writable, write_calibration
from kdjax.commands.common import source_of
from kdjax.commands.compute import compute_of
from kdjax.commands.models import open_model
from kdjax.commands.names import directory_of
from kdjax.commands.reporter import Reporter
from kdjax.commands.teacher import Teacher
from kdjax.commands.workdir import Workdir
from kdjax.config import to_plain
from kdjax.objectives import match_entropy, mean_entropy


def calibrate(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Find the scale at which the rows of `config.teacher` have the entropy asked for.

    It is stored with the teacher, for `teacher_scale = "stored"` of distil runs.
    """
    check_writable(config.teacher, directory_of(config.teacher, workdir.path))
    compute = compute_of(config, reporter)
    held_out = source_of(config, config.eval.split)
    teacher = Teacher(config.teacher, open_model(config.teacher, workdir.path, compute))
    rows, entropy = config.batch_size, config.teacher_entropy
    image, text = teacher.embed_pairs(held_out, rows)
    scale = match_entropy(image, text, entropy, rows=rows)
    calibration = {
        "scale": scale,
        "entropy": entropy,
        "batch_size": rows,
        "pairs": len(image) // rows * rows,
        "data": to_plain(config.data),
        "split": config.eval.split,
    }
    write_calibration(teacher.directory, calibration)
    own = math.exp(teacher.params["logit_scale"])
    return {
        "calibrated_scale": scale,
        "calibrated_entropy": mean_entropy(image, text, scale, rows=rows),
        "own_scale": own,
        "own_entropy": mean_entropy(image, text, own, rows=rows),
    }

"""What is minimised: pure functions of embeddings, combined by config."""

from kdjax.embeddings import Embeddings
from kdjax.objectives.calibration import (
    match_entropy,
    mean_entropy,
    mean_row_entropy,
)
from kdjax.objectives.combine import Objective, build_objective
from kdjax.objectives.estimate import estimate, estimated
from kdjax.objectives.registry import (
    check_of,
    expand,
    needing_teacher,
    objective_names,
    preset_names,
)

__all__ = [
    "Embeddings",
    "Objective",
    "build_objective",
    "check_of",
    "estimate",
    "estimated",
    "expand",
    "match_entropy",
    "mean_entropy",
    "mean_row_entropy",
    "needing_teacher",
    "objective_names",
    "preset_names",
]

"""What is estimated of teachers on training images before a run starts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax.commands.teacher import Teacher
from kdjax.data.records import Source
from kdjax.objectives import Objective, estimate, estimated

# Images that are looked at, of all: for statistics of patches, and of embeddings.
PATCH_IMAGES, EMBEDDED_IMAGES = 256, 2048


def estimate_statistics(
    teachers: Sequence[Teacher], source: Source, objective: Objective
) -> list[dict[str, Any]]:
    """Return what an objective wants estimated of each teacher.

    Args:
        teachers: in their order.
        source: of training images and captions.
        objective: or its shapes.

    Returns:
        Subtrees of the objective's parameters, of teachers of whom anything is wanted.
    """
    return [
        _of_teacher(teacher, source, objective, place)
        for place, teacher in enumerate(teachers)
        if estimated(objective, place)
    ]


def _of_teacher(
    teacher: Teacher, source: Source, objective: Objective, place: int
) -> dict[str, Any]:
    wanted = estimated(objective, place)
    of_embeddings = [field for field, _ in wanted if field in ("image", "text")]
    of_patches = tuple(each for each in wanted if each[0] not in of_embeddings)
    outputs: dict[str, np.ndarray] = {}
    if of_embeddings:
        rows = _spread(source, EMBEDDED_IMAGES)
        captions = [source[row].captions[0] for row in rows]
        outputs |= teacher.see_rows(source, rows, (("image", ()),))
        outputs["text"] = teacher.embed_captions(captions)
    if of_patches:
        rows = _spread(source, PATCH_IMAGES)
        outputs |= teacher.see_rows(source, rows, of_patches)
    return estimate(objective, outputs, place)


def _spread(source: Source, most: int) -> list[int]:
    """Return rows spread evenly over a source, at most so many."""
    count = min(most, len(source))
    return [row * len(source) // count for row in range(count)]

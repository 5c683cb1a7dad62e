"""What is timed, and the same data for both sides; imports neither of them."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["forward", "train", "distill"]
# Widths of these are equal, so the feature distance has no projection.
PAIRS = {"vit-b-32": "vit-b-32", "vit-t-16": "vit-b-32"}
KINDS: tuple[Kind, ...] = ("forward", "train", "distill")
OBJECTIVES = {"clip": 1.0, "crd": 1.0, "fd": 3.9}  # CLIP-KD's
OPTIMIZER = {"learning_rate": 1e-4, "weight_decay": 0.1, "b2": 0.98, "clip_norm": 1.0}
LENGTH = 77


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        kind: a forward pass, a contrastive step, or a distillation step.
        student: architecture.
        teacher: architecture, which only a distillation has.
        batch: rows.
        dtype: of activations, "float32" or "bfloat16".
        remat: of the student's towers.
        folder: where the models lie that both sides begin with.
    """

    kind: Kind
    student: str
    teacher: str
    batch: int
    dtype: str
    remat: str
    folder: str

    @property
    def name(self) -> str:
        """What people call it."""
        taught = f"{self.teacher} to " if self.kind == "distill" else ""
        return f"{self.kind} {taught}{self.student}"

    def model(self, role: str) -> Path:
        """Return the folder of the student or of the teacher."""
        return Path(self.folder) / role

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """Return the case that another process wrote."""
        return cls(**json.loads(text))


def inputs(case: Case, size: int, context: int, end: int) -> dict[str, Any]:
    """Return a batch: uint8 images, and texts that end where the longest may.

    Args:
        case: whose batch.
        size: of the images in pixels.
        context: tokens of a text.
        end: the id that ends a text, the largest.
    """
    rng = np.random.default_rng(0)
    ids = rng.integers(1, end, (case.batch, context), np.int32)
    ids[:, -1] = end
    image = rng.integers(0, 256, (case.batch, size, size, 3), np.uint8)
    return {"image": image, "ids": ids}


def serve(first: Mapping[str, Any], run: Callable[[int], None]) -> None:
    """Time rounds of a side for the process that started it, until it hangs up.

    Args:
        first: what is said before: the loss of the first step, or the sum of the logits
            of a forward pass, by which the sides are compared; and what it runs on.
        run: makes a number of steps and waits for them.
    """
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds}), flush=True)

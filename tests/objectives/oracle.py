"""The objectives once more, from their formulas in float64 NumPy.

Shares no code with the package: loops over pairs where that is plainest, and central
differences for gradients.
"""

from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(axis=1))[:, None]


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def cross_entropy(logits: np.ndarray) -> float:
    return -float(np.mean([np.log(softmax(row)[i]) for i, row in enumerate(logits)]))


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    rows = []
    for theirs, ours in zip(teacher, student, strict=True):
        p, q = softmax(theirs), softmax(ours)
        rows.append(np.sum(p * np.log(p / q)))
    return float(np.mean(rows))


def projected(x: Arrays, modality: str) -> np.ndarray:
    rows = x[f"student_{modality}"]
    if f"{modality}_kernel" not in x:
        return rows
    return rows @ x[f"{modality}_kernel"] + x[f"{modality}_bias"]


def clip(x: Arrays) -> float:
    logits = x["student_scale"] * unit(x["student_image"]) @ unit(x["student_text"]).T
    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def crd(x: Arrays) -> float:
    ours = x["student_scale"] * unit(x["student_image"]) @ unit(x["student_text"]).T
    theirs = x["teacher_scale"] * unit(x["teacher_image"]) @ unit(x["teacher_text"]).T
    return (divergence(theirs, ours) + divergence(theirs.T, ours.T)) / 2


def fd(x: Arrays) -> float:
    total = 0.0
    for modality in ("image", "text"):
        ours, theirs = unit(projected(x, modality)), unit(x[f"teacher_{modality}"])
        total += float(
            np.mean([((a - b) @ (a - b)) for a, b in zip(ours, theirs, strict=True)])
        )
    return total


def fd_mean(x: Arrays) -> float:
    return fd(x) / x["teacher_image"].shape[1]


def icl(x: Arrays) -> float:
    c = x["learnt_scale"]
    image = c * unit(projected(x, "image")) @ unit(x["teacher_text"]).T
    text = c * unit(projected(x, "text")) @ unit(x["teacher_image"]).T
    return (cross_entropy(image) + cross_entropy(text)) / 2


def icl_exp(x: Arrays) -> float:
    return icl({**x, "learnt_scale": np.exp(x["learnt_scale"])})


def gradient(
    loss: Callable[[Arrays], float], x: Arrays, name: str, step: float = 1e-5
) -> np.ndarray:
    """Central differences of a loss with respect to one of its arrays."""
    slopes = np.zeros_like(x[name], np.float64)
    for index in np.ndindex(slopes.shape):
        ends = []
        for sign in (1, -1):
            moved = np.array(x[name], np.float64)
            moved[index] += sign * step
            ends.append(loss({**x, name: moved}))
        slopes[index] = (ends[0] - ends[1]) / (2 * step)
    return slopes


def inputs(
    rng: np.random.Generator, batch: int, student: int, teacher: int
) -> dict[str, np.ndarray]:
    """Random arrays by the names that the losses read, heads where widths differ."""
    x = {
        f"{side}_{modality}": rng.normal(size=(batch, width))
        for side, width in (("student", student), ("teacher", teacher))
        for modality in ("image", "text")
    }
    x |= {
        name: np.array(rng.uniform(low, high))
        for name, low, high in (
            ("student_scale", 2.0, 20.0),
            ("teacher_scale", 2.0, 20.0),
            ("learnt_scale", 0.5, 3.0),
        )
    }
    if student != teacher:
        for modality in ("image", "text"):
            x[f"{modality}_kernel"] = rng.normal(size=(student, teacher))
            x[f"{modality}_bias"] = rng.normal(size=teacher)
    return x

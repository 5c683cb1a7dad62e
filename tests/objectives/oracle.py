"""The objectives once more, from their formulas in float64 NumPy.

Shares no code with the package: loops over pairs where that is plainest, and central
differences for gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def mfd(x: Arrays) -> float:
    return fd({**x, "student_image": x["student_masked"]})


def mfd_mean(x: Arrays) -> float:
    return mfd(x) / x["teacher_image"].shape[1]


def icl(x: Arrays) -> float:
    c = x["learnt_scale"]
    image = c * unit(projected(x, "image")) @ unit(x["teacher_text"]).T
    text = c * unit(projected(x, "text")) @ unit(x["teacher_image"]).T
    return (cross_entropy(image) + cross_entropy(text)) / 2


def icl_exp(x: Arrays) -> float:
    return icl({**x, "learnt_scale": np.exp(x["learnt_scale"])})


def crossed(x: Arrays) -> tuple[np.ndarray, np.ndarray]:
    c = x["learnt_scale"]
    image = c * unit(projected(x, "image")) @ unit(x["teacher_text"]).T
    text = c * unit(projected(x, "text")) @ unit(x["teacher_image"]).T
    return image, text


def logits_of(x: Arrays, side: str) -> np.ndarray:
    return x[f"{side}_scale"] * unit(x[f"{side}_image"]) @ unit(x[f"{side}_text"]).T


def teacher_logits(x: Arrays) -> np.ndarray:
    return logits_of(x, "teacher")


def student_logits(x: Arrays) -> np.ndarray:
    return logits_of(x, "student")


def cross_kd(x: Arrays) -> float:
    image, text = crossed(x)
    theirs = teacher_logits(x)
    return (divergence(theirs, image) + divergence(theirs.T, text)) / 2


def anchored(anchors: np.ndarray, others: np.ndarray, scale: float) -> list[np.ndarray]:
    """Rows (p - 1) others and (p - 1)^T anchors, pair by pair."""
    of_anchors, of_others = np.zeros_like(anchors), np.zeros_like(others)
    for i, anchor in enumerate(anchors):
        p = softmax(np.array([scale * anchor @ other for other in others]))
        for j, other in enumerate(others):
            error = p[j] - (i == j)
            of_anchors[i] += error * other
            of_others[j] += error * anchor
    return [of_anchors, of_others]


def gradient_distance(
    x: Arrays,
    within: Callable[[float], float],
    factor: Callable[[float, int], float],
) -> np.ndarray:
    """The squares of the four differences, summed, of every element [B, D]."""
    sides = []
    for image, text, scale in (
        (projected(x, "image"), projected(x, "text"), x["student_scale"]),
        (x["teacher_image"], x["teacher_text"], x["teacher_scale"]),
    ):
        image, text = unit(image), unit(text)
        inner = within(scale)
        terms = anchored(image, text, inner) + anchored(text, image, inner)
        sides.append([factor(scale, len(image)) * term for term in terms])
    return sum((ours - theirs) ** 2 for ours, theirs in zip(*sides, strict=True))


def gd_unit(x: Arrays) -> float:
    squares = gradient_distance(x, lambda s: s, lambda s, batch: 1.0)
    return float(np.mean([row.sum() for row in squares]))


def gd_paper(x: Arrays) -> float:
    return float(gradient_distance(x, lambda s: s, lambda s, b: s / b).mean())


def gd_released(x: Arrays) -> float:
    return float(gradient_distance(x, lambda s: 1 / s, lambda s, b: 1 / s / b).mean())


def afd(x: Arrays) -> float:
    fused = {}
    for modality in ("image", "text"):
        sides = [unit(x[f"{side}_{modality}"]) for side in ("student", "teacher")]
        kernel = x[f"fusion_{modality}_kernel"]
        rows = [np.append(a, b) @ kernel for a, b in zip(*sides, strict=True)]
        fused[modality] = unit(np.array(rows) + x[f"fusion_{modality}_bias"])
    logits = x["fusion_scale"] * fused["image"] @ fused["text"].T
    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def afd_exp(x: Arrays) -> float:
    return afd({**x, "fusion_scale": np.exp(x["fusion_scale"])})


def soft_cross_entropy(teacher: np.ndarray, student: np.ndarray) -> float:
    pairs = zip(teacher, student, strict=True)
    return -float(np.mean([softmax(t) @ np.log(softmax(s)) for t, s in pairs]))


def open_clip_distill(x: Arrays) -> float:
    ours, theirs = student_logits(x), teacher_logits(x)
    return (soft_cross_entropy(theirs, ours) + soft_cross_entropy(theirs.T, ours.T)) / 2


def multi_teacher(x: Arrays, sides: Sequence[str], together: bool = True) -> float:
    def one_way(ours: np.ndarray, theirs: Sequence[np.ndarray]) -> float:
        found = []
        for i, row in enumerate(ours):
            targets, q = [softmax(logits[i]) for logits in theirs], softmax(row)
            if together:
                targets = [sum(targets) / len(targets)]
            found.append(np.mean([np.sum(p * np.log(p / q)) for p in targets]))
        return float(np.mean(found))

    ours, theirs = student_logits(x), [logits_of(x, side) for side in sides]
    return (one_way(ours, theirs) + one_way(ours.T, [z.T for z in theirs])) / 2


def affinity_within(x: Arrays, images: float, texts: float) -> float:
    total = open_clip_distill(x)
    for weight, modality in ((images, "image"), (texts, "text")):
        ours, theirs = (
            unit(x[f"{side}_{modality}"]) for side in ("student", "teacher")
        )
        total += weight * soft_cross_entropy(
            x["teacher_scale"] * theirs @ theirs.T, x["student_scale"] * ours @ ours.T
        )
    return total


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def siglip(x: Arrays) -> float:
    logits = student_logits(x) + x.get("student_bias", x.get("learnt_bias"))
    total = 0.0
    for i, j in np.ndindex(logits.shape):
        total -= np.log(sigmoid(logits[i, j] if i == j else -logits[i, j]))
    return total / len(logits)


def siglip_distill(
    x: Arrays,
    temperature: float = 1.0,
    mobileclip2: bool = False,
    sides: Sequence[str] = ("teacher",),
) -> float:
    bias = x.get("student_bias", x.get("learnt_bias"))
    ours = (student_logits(x) + bias) / temperature
    theirs = [
        (logits_of(x, side) + x.get(f"{side}_bias", 0.0)) / temperature
        for side in sides
    ]
    targets = sum(sigmoid(z) for z in theirs) / len(sides)
    total = 0.0
    for z, target in zip(ours.flat, targets.flat, strict=True):
        if mobileclip2:
            total -= np.log(sigmoid((2 * target - 1) * z))
        else:
            total -= target * np.log(sigmoid(z)) + (1 - target) * np.log(sigmoid(-z))
    return total / len(ours)


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
            ("fusion_scale", 0.5, 3.0),
            ("learnt_bias", -5.0, 0.0),
        )
    }
    x["student_masked"] = rng.normal(size=(batch, student))
    for modality in ("image", "text"):
        x[f"fusion_{modality}_kernel"] = rng.normal(size=(student + teacher, student))
        x[f"fusion_{modality}_bias"] = rng.normal(size=student)
    if student != teacher:
        for modality in ("image", "text"):
            x[f"{modality}_kernel"] = rng.normal(size=(student, teacher))
            x[f"{modality}_bias"] = rng.normal(size=teacher)
    return x

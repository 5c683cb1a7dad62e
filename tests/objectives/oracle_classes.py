"""What classes are compared by, once more in float64 NumPy, row by row."""

from collections.abc import Mapping

import numpy as np
from objectives.oracle import sigmoid, softmax

Arrays = Mapping[str, np.ndarray]


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def weighted(x: Arrays, rows: list[float], counts: list[bool] | None = None) -> float:
    weights = [float(w) for w in x["student_class_weights"]]
    if counts is not None:
        weights = [w if c else 0.0 for w, c in zip(weights, counts, strict=True)]
    total = sum(w * row for w, row in zip(weights, rows, strict=True))
    return total / sum(weights)


def bce(x: Arrays) -> float:
    rows = []
    pairs = zip(x["student_class_logits"], x["student_class_targets"], strict=True)
    for logits, targets in pairs:
        p = sigmoid(logits)
        rows.append(-(targets @ np.log(p) + (1 - targets) @ np.log(1 - p)))
    return weighted(x, rows)


def sides(x: Arrays, temperature: float):
    teacher, student = x["teacher_class_logits"], x["student_class_logits"]
    return zip(teacher / temperature, student / temperature, strict=True)


def hinton(x: Arrays, temperature: float = 4.0) -> float:
    rows = [kl(softmax(t), softmax(s)) for t, s in sides(x, temperature)]
    return temperature**2 * weighted(x, rows)


def hinton_sigmoid(x: Arrays, temperature: float = 4.0) -> float:
    rows = []
    for theirs, ours in sides(x, temperature):
        p, q = sigmoid(theirs), sigmoid(ours)
        rows.append(
            sum(
                kl(np.array([a, 1 - a]), np.array([b, 1 - b]))
                for a, b in zip(p, q, strict=True)
            )
        )
    return temperature**2 * weighted(x, rows)


def decoupled(x: Arrays, temperature: float = 1.0):
    """TCKD, NCKD and the teacher's probability of the target, of every row."""
    labels = [int(np.argmax(row)) for row in x["student_class_targets"]]
    for (theirs, ours), label in zip(sides(x, temperature), labels, strict=True):
        p, q = softmax(theirs), softmax(ours)
        binary = [np.array([r[label], 1 - r[label]]) for r in (p, q)]
        others = [np.delete(r, label) / (1 - r[label]) for r in (p, q)]
        yield kl(*binary), kl(*others), p[label]


def dkd(
    x: Arrays, alpha: float = 1.0, beta: float = 0.5, temperature: float = 1.0
) -> float:
    rows = [alpha * t + beta * n for t, n, _ in decoupled(x, temperature)]
    labelled = [bool(row.any()) for row in x["student_class_targets"]]
    return temperature**2 * weighted(x, rows, labelled)


def inputs(rng: np.random.Generator, batch: int, classes: int) -> dict[str, np.ndarray]:
    """Random arrays by the names that the losses read; every row counts otherwise."""
    return {
        "student_class_logits": 2 * rng.normal(size=(batch, classes)),
        "teacher_class_logits": 2 * rng.normal(size=(batch, classes)),
        "student_class_targets": rng.uniform(size=(batch, classes)),
        "student_class_weights": rng.uniform(0.5, 1.0, size=batch),
    }

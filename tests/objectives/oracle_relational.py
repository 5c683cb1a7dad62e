"""Relations and representations once more, from their papers in float64 NumPy.

Shares no code with the package, and takes another way to each value where there is
one: differences instead of inner products, features instead of similarities, SciPy's
rotation, NumPy's correlation. Every one is of arrays as `oracle.inputs` names them.
"""

from collections.abc import Callable

import numpy as np
from objectives.oracle import Arrays, divergence, projected, softmax, unit
from scipy.linalg import orthogonal_procrustes


def of_modalities(x: Arrays, loss: Callable[[np.ndarray, np.ndarray], float]) -> float:
    return (
        sum(loss(x[f"student_{m}"], x[f"teacher_{m}"]) for m in ("image", "text")) / 2
    )


def similarity(x: Arrays) -> float:
    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        gap = unit(ours) @ unit(ours).T - unit(theirs) @ unit(theirs).T
        rows = range(len(gap))
        return np.mean([gap[i, j] ** 2 for i in rows for j in rows if i != j])

    return of_modalities(x, loss)


def similarity_kl(x: Arrays, temperature: float = 0.07) -> float:
    def others(rows: np.ndarray) -> np.ndarray:
        cosines = unit(rows) @ unit(rows).T
        return np.array([np.delete(row, i) for i, row in enumerate(cosines)])

    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        return divergence(others(theirs) / temperature, others(ours) / temperature)

    return of_modalities(x, loss)


def pkt(x: Arrays) -> float:
    def odds(rows: np.ndarray) -> np.ndarray:
        similarities = (1 + unit(rows) @ unit(rows).T) / 2
        return similarities / similarities.sum(axis=1, keepdims=True)

    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        p, q = odds(theirs), odds(ours)
        return (p * np.log(p / q)).sum() / len(p)

    return of_modalities(x, loss)


def huber(x: np.ndarray) -> float:
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5).mean()


def rkd(x: Arrays, distance: float = 25.0, angle: float = 50.0) -> float:
    """All B^2 pairs and B^3 triples; those that repeat a member are equal."""

    def relations(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = unit(rows)[None] - unit(rows)[:, None]
        lengths = np.sqrt((steps**2).sum(axis=2))
        mean = lengths.sum() / (len(rows) * (len(rows) - 1))
        ways = steps / np.where(lengths > 0, lengths, 1)[:, :, None]
        return lengths / mean, np.array([at @ at.T for at in ways])

    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        far, cosines = (
            huber(a - b)
            for a, b in zip(relations(ours), relations(theirs), strict=True)
        )
        return distance * far + angle * cosines

    return of_modalities(x, loss)


def cka(x: Arrays) -> float:
    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        a, b = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
        cross, own, other = b.T @ a, a.T @ a, b.T @ b
        norms = np.linalg.norm(own) * np.linalg.norm(other)
        return 1 - np.linalg.norm(cross) ** 2 / norms

    return of_modalities(x, loss)


def hsic_1(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimator as Song 2012 writes it."""
    n, one = len(a), np.ones(len(a))
    k, m = a @ a.T, b @ b.T
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    product = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    terms = np.trace(k @ m) + product - 2 / (n - 2) * (one @ k @ m @ one)
    return terms / (n * (n - 3))


def cka_debiased(x: Arrays) -> float:
    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        norms = hsic_1(ours, ours) * hsic_1(theirs, theirs)
        return 1 - hsic_1(ours, theirs) / np.sqrt(norms)

    return of_modalities(x, loss)


def procrustes(x: Arrays) -> float:
    def shape(rows: np.ndarray, width: int) -> np.ndarray:
        rows = np.pad(rows, ((0, 0), (0, width - rows.shape[1])))
        rows = rows - rows.mean(axis=0)
        return rows / np.linalg.norm(rows)

    def loss(ours: np.ndarray, theirs: np.ndarray) -> float:
        width = max(ours.shape[1], theirs.shape[1])
        a, b = shape(ours, width), shape(theirs, width)
        rotation, _ = orthogonal_procrustes(a, b)
        return np.linalg.norm(a @ rotation - b) ** 2

    return of_modalities(x, loss)


def cosines(x: Arrays, side: str) -> np.ndarray:
    return unit(x[f"{side}_image"]) @ unit(x[f"{side}_text"]).T


def dist(
    x: Arrays, beta: float = 2.0, gamma: float = 2.0, temperature: float = 1.0
) -> float:
    def apart(p: np.ndarray, q: np.ndarray) -> float:
        pairs = zip(p, q, strict=True)
        return 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])

    def one_way(ours: np.ndarray, theirs: np.ndarray) -> float:
        p, q = (
            np.array([softmax(row / temperature) for row in logits])
            for logits in (ours, theirs)
        )
        return beta * apart(p, q) + gamma * apart(p.T, q.T)

    ours = x["student_scale"] * cosines(x, "student")
    theirs = x["teacher_scale"] * cosines(x, "teacher")
    return temperature**2 * (one_way(ours, theirs) + one_way(ours.T, theirs.T)) / 2


def logit_std(x: Arrays, temperature: float = 2.0) -> float:
    def z_scores(logits: np.ndarray) -> np.ndarray:
        return np.array([(row - row.mean()) / row.std() for row in logits])

    ours = x["student_scale"] * cosines(x, "student")
    theirs = x["teacher_scale"] * cosines(x, "teacher")
    both = [
        divergence(z_scores(b) / temperature, z_scores(a) / temperature)
        for a, b in ((ours, theirs), (ours.T, theirs.T))
    ]
    return temperature**2 * sum(both) / 2


def dime_fm(
    x: Arrays,
    texts: float = 0.7,
    images: float = 0.3,
    text_temperature: float = 1.0,
    image_temperature: float = 3.0,
) -> float:
    ours, theirs = unit(projected(x, "image")), unit(x["teacher_image"])
    words = unit(x["teacher_text"])
    t = 100 / text_temperature
    by_image = divergence(t * theirs @ words.T, t * ours @ words.T)
    by_text = divergence(t * words @ theirs.T, t * words @ ours.T)
    t = 100 / image_temperature
    among = divergence(t * theirs @ theirs.T, t * ours @ theirs.T)
    return texts * (by_image + by_text) + images * 2 * among

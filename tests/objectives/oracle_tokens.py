"""Objectives of patch tokens and principal directions once more, in float64 NumPy.

Shares no code with the package: triangles over distances instead of a library's resize,
loops over images, patches and queries. Arrays are by the names of `inputs`.
"""

import math

import numpy as np
from objectives.oracle import Arrays, projected, unit


def line_weights(size: int, to: int) -> np.ndarray:
    """Of a line's places in those of another, by a triangle as wide as the coarser."""
    step = size / to
    support = max(step, 1.0)
    weights = np.zeros((to, size))
    for i in range(to):
        for j in range(size):
            away = abs((j + 0.5) - (i + 0.5) * step)
            weights[i, j] = max(0.0, 1 - away / support)
    return weights / weights.sum(axis=1)[:, None]


def grid_weights(patches: int, to: int) -> np.ndarray:
    along = line_weights(round(patches**0.5), round(to**0.5))
    return np.kron(along, along)


def resampled(tokens: np.ndarray, to: int) -> np.ndarray:
    weights = grid_weights(tokens.shape[1], to)
    return np.array([weights @ image for image in tokens])


def without_class(tokens: np.ndarray) -> np.ndarray:
    count = tokens.shape[1]
    return tokens if round(count**0.5) ** 2 == count else tokens[:, 1:]


def adapted(x: Arrays, tokens: np.ndarray, prefix: str) -> np.ndarray:
    erf = np.vectorize(math.erf)
    out = []
    for row in tokens.reshape(-1, tokens.shape[-1]):
        row = (row - row.mean()) / np.sqrt(row.var() + 1e-6)
        row = row * x[f"{prefix}norm_scale"] + x[f"{prefix}norm_bias"]
        row = row @ x[f"{prefix}up_kernel"] + x[f"{prefix}up_bias"]
        row = row * (1 + erf(row / math.sqrt(2))) / 2
        out.append(row @ x[f"{prefix}down_kernel"] + x[f"{prefix}down_bias"])
    return np.array(out).reshape(*tokens.shape[:2], -1)


def radio(x: Arrays, ours: np.ndarray, theirs: np.ndarray, prefix: str) -> float:
    said = adapted(x, resampled(ours, theirs.shape[1]), prefix)
    total = 0.0
    rows = (tokens.reshape(-1, said.shape[-1]) for tokens in (said, theirs))
    for a, b in zip(*rows, strict=True):
        total += 0.9 * (1 - a @ b / math.sqrt((a @ a) * (b @ b)))
        total += 0.1 * np.mean([d * d / 2 if d < 1 else d - 0.5 for d in abs(a - b)])
    return total / (said.shape[0] * said.shape[1])


def phi_s(x: Arrays, ours: np.ndarray, theirs: np.ndarray, prefix: str) -> float:
    said = adapted(x, resampled(ours, theirs.shape[1]), prefix)
    wanted = (theirs - x[f"{prefix}mean"]) @ x[f"{prefix}matrix"]
    return float(((said - wanted) ** 2).mean())


def tokens(x: Arrays) -> float:
    return radio(x, x["student_tokens"], x["teacher_tokens"], "tokens_")


def tokens_phi_s(x: Arrays) -> float:
    return phi_s(x, x["student_tokens"], x["teacher_tokens"], "tokens_")


def hidden(x: Arrays, pairs: list[tuple[int, int]]) -> float:
    terms = []
    for place, (one, other) in enumerate(pairs):
        ours = without_class(x["student_hidden"][one])
        theirs = without_class(x["teacher_hidden"][other])
        terms.append(radio(x, ours, theirs, f"hidden_{place}_"))
    return float(np.mean(terms))


def coarse_map(row_map: np.ndarray, to: int, class_token: bool) -> np.ndarray:
    """A map among patches of another grid: its rows mixed, its columns' mass spread."""
    patches = len(row_map) - class_token
    weights = grid_weights(patches, to)
    out = np.zeros((to + class_token, to + class_token))
    for i in range(len(out)):
        row = np.zeros(len(row_map))
        if class_token and i == 0:
            row = row_map[0]
        else:
            for j, share in enumerate(weights[i - class_token]):
                row = row + share * row_map[j + class_token]
        spread = weights @ row[int(class_token) :] * patches / to
        out[i] = np.append(row[:1], spread) if class_token else spread
    return out


def attention(x: Arrays, pairs: list[tuple[int, int]], matched: bool = False) -> float:
    values = []
    for one, other in pairs:
        both = x["student_attention"][one], x["teacher_attention"][other]
        for ours, theirs in zip(*both, strict=True):
            if not matched:
                ours, theirs = ours.mean(0)[None], theirs.mean(0)[None]
            for a, b in zip(ours, theirs, strict=True):
                values.append(map_divergence(a, b))
    return float(np.mean(values))


def map_divergence(ours: np.ndarray, theirs: np.ndarray) -> float:
    has = [round(len(m) ** 0.5) ** 2 != len(m) for m in (ours, theirs)]
    if not all(has):
        ours, theirs = (
            m[1:, 1:] if h else m for m, h in zip((ours, theirs), has, strict=True)
        )
    kept = all(has)
    ours = coarse_map(ours, len(theirs) - kept, kept)
    rows = []
    for q, p in zip(ours, theirs, strict=True):
        p, q = p / p.sum(), q / q.sum()
        rows.append(np.sum(p * np.log(p / q)))
    return float(np.mean(rows))


def principal(x: Arrays, components: int) -> float:
    total = 0.0
    for modality in ("image", "text"):
        mean, matrix = x[f"basis_{modality}_mean"], x[f"basis_{modality}_matrix"]
        sides = [
            unit((unit(rows) - mean) @ matrix[:, :components])
            for rows in (projected(x, modality), x[f"teacher_{modality}"])
        ]
        total += np.mean([((a - b) ** 2).sum() for a, b in zip(*sides, strict=True)])
    return float(total)


# Layers, patches, class token or none, width.
TOWERS = {"student": (2, 9, 1, 6), "teacher": (3, 4, 0, 4)}


def towers(
    rng: np.random.Generator, batch: int, alike: bool = False
) -> dict[str, np.ndarray]:
    """What both vision towers say, images before layers; alike, of equal shapes."""
    x = {}
    for side in ("student", "teacher"):
        layers, patches, class_token, width = TOWERS["teacher" if alike else side]
        places = patches + class_token
        x |= {
            f"{side}_tokens": rng.normal(size=(batch, patches, width)),
            f"{side}_hidden": rng.normal(size=(batch, layers, places, width)),
            f"{side}_attention": maps(rng, batch, layers, 2, places, places),
        }
    return x


def maps(rng: np.random.Generator, *shape: int) -> np.ndarray:
    powers = np.exp(rng.normal(size=shape))
    return powers / powers.sum(-1, keepdims=True)

"""The logit scale at which a teacher's softmax has a given entropy."""

import math

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import log_softmax

from kdjax.errors import UserError

SCALES = (1e-3, 1e4)


def mean_row_entropy(cosines: Float[np.ndarray, "B B"], scale: float) -> float:
    """Return the mean row entropy in nats of softmax(scale cosines), both ways."""

    def one_way(logits: np.ndarray) -> float:
        logs = log_softmax(logits, axis=1)
        return float(-(np.exp(logs) * logs).sum(1).mean())

    return (one_way(scale * cosines) + one_way(scale * cosines.T)) / 2


def match_entropy(
    image: Float[np.ndarray, "N D"],
    text: Float[np.ndarray, "N D"],
    target: float,
    *,
    rows: int | None = None,
) -> float:
    """Return the scale at which the mean row entropy of softmax(L) is `target`.

    Teachers differ in sharpness; one scale per teacher, set on held-out pairs, makes
    their soft targets say equally much.

    Args:
        image: held-out embeddings, of any length.
        text: of the captions of the same images.
        target: in nats, between 0 and ln of the rows of a batch.
        rows: of a batch, whose mean entropies are averaged; what does not fill one is
            left out. None for one batch of all pairs.

    Raises:
        UserError: no scale gives that entropy, or there are too few pairs for a batch.
    """

    def unit(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    rows = rows or len(image)
    batches = len(image) // rows
    if not batches:
        raise UserError(
            f"a teacher is calibrated on batches of {rows} held-out pairs and there "
            f"are {len(image)}: choose smaller ones, or a number as teacher_scale"
        )
    pairs = zip(
        *(np.split(unit(x)[: batches * rows], batches) for x in (image, text)),
        strict=True,
    )
    cosines = [i @ t.T for i, t in pairs]

    def entropy(scale: float) -> float:
        return float(np.mean([mean_row_entropy(batch, scale) for batch in cosines]))

    low, high = (entropy(scale) for scale in reversed(SCALES))
    if not low < target < high:
        raise UserError(
            f"no logit scale gives {rows} such pairs a row entropy of {target} "
            f"nats; it can be between {low:.2f} and {high:.2f}"
        )
    found = brentq(lambda log: entropy(math.exp(log)) - target, *map(math.log, SCALES))
    return math.exp(found)

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
    image: Float[np.ndarray, "B D"], text: Float[np.ndarray, "B D"], target: float
) -> float:
    """Return the scale at which the mean row entropy of softmax(L) is `target`.

    Teachers differ in sharpness; one scale per teacher, set on held-out pairs, makes
    their soft targets say equally much.

    Args:
        image: held-out embeddings, of any length.
        text: of the captions of the same images.
        target: in nats, between 0 and ln B.

    Raises:
        UserError: no scale gives that entropy.
    """

    def unit(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    cosines = unit(image) @ unit(text).T
    low, high = (mean_row_entropy(cosines, scale) for scale in reversed(SCALES))
    if not low < target < high:
        raise UserError(
            f"no logit scale gives {len(cosines)} such pairs a row entropy of {target} "
            f"nats; it can be between {low:.2f} and {high:.2f}"
        )
    found = brentq(
        lambda log: mean_row_entropy(cosines, math.exp(log)) - target,
        *map(math.log, SCALES),
    )
    return math.exp(found)

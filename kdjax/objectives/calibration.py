"""The logit scale at which a teacher's softmax has a given entropy."""

import math

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import log_softmax

from kdjax.errors import UserError
from kdjax.objectives.cosines import unit_rows

SCALES = (1e-3, 1e4)


def mean_row_entropy(cosines: Float[np.ndarray, "B B"], scale: float) -> float:
    """Return the mean row entropy in nats of softmax(scale cosines), both ways."""

    def one_way(logits: np.ndarray) -> float:
        logs = log_softmax(logits, axis=1)
        return float(-(np.exp(logs) * logs).sum(1).mean())

    return (one_way(scale * cosines) + one_way(scale * cosines.T)) / 2


def mean_entropy(
    image: Float[np.ndarray, "N D"],
    text: Float[np.ndarray, "N D"],
    scale: float,
    *,
    rows: int | None = None,
) -> float:
    """Return the mean row entropy in nats of softmax(L) at that scale.

    Args:
        image: embeddings, of any length.
        text: of the captions of the same images.
        scale: of the cosines.
        rows: of a batch, see `match_entropy`.

    Raises:
        UserError: there are too few pairs for a batch.
    """
    batches = _cosines(image, text, rows or len(image))
    return _mean_entropy(batches, scale)


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
    rows = rows or len(image)
    batches = _cosines(image, text, rows)
    low, high = (_mean_entropy(batches, scale) for scale in reversed(SCALES))
    if not low < target < high:
        raise UserError(
            f"no logit scale gives {rows} such pairs a row entropy of {target} "
            f"nats; it can be between {low:.2f} and {high:.2f}"
        )

    def excess(log: float) -> float:
        return _mean_entropy(batches, math.exp(log)) - target

    return math.exp(brentq(excess, *map(math.log, SCALES)))


def _cosines(
    image: Float[np.ndarray, "N D"], text: Float[np.ndarray, "N D"], rows: int
) -> list[Float[np.ndarray, "B B"]]:
    """Return the cosines of images with texts, of every batch that is filled."""
    batches = len(image) // rows
    if not batches:
        raise UserError(
            f"a teacher is calibrated on batches of {rows} held-out pairs and there "
            f"are {len(image)}: choose smaller ones, or a number as teacher_scale"
        )
    pairs = zip(
        *(np.split(unit_rows(x)[: batches * rows], batches) for x in (image, text)),
        strict=True,
    )
    return [i @ t.T for i, t in pairs]


def _mean_entropy(batches: list[Float[np.ndarray, "B B"]], scale: float) -> float:
    return float(np.mean([mean_row_entropy(batch, scale) for batch in batches]))

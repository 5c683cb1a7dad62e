"""What a study's numbers can tell: intervals, differences and rank correlations.

Two things are random in a student's score. The test images are a sample: they are
drawn again with replacement, the same ones for every run, so that what is hard for all
of them cancels in differences (Efron and Tibshirani 1993). And training is seeded: the
same seeds train every cell, so a cell's scores y[c, s] = mean[c] + block[s] +
rest[c, s], where the block, the common luck of a seed, cancels in differences too.

Drawing two seeds with replacement would halve the variance and know three outcomes.
Instead residuals are drawn from those of all cells, scaled to each cell's variance. A
few seeds say little of that, and cells differ: what hardly can fail varies little, and
what may fail varies a lot. So it is the cell's own variance moderated by the pooled
one, which counts as one more degree of freedom (as in Smyth 2004, "Linear models and
empirical Bayes methods"), and draws are widened by t / z for these few degrees
(Hesterberg 2015, "What teachers should know about the bootstrap").
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import norm, rankdata, t

from kdjax.errors import UserError
from kdjax.study.result import Interval

LEVEL = 0.95
SIGNIFICANT = 0.05
MOST_ORDERED = 8
RANDOM_ORDERS = 100_000
UNRESOLVED = "not resolvable"
# Degrees of freedom that the pooled variance counts for beside a cell's own.
PRIOR_FREEDOM = 1


@dataclass(frozen=True)
class Scores:
    """VQA accuracy by image, so that images can be drawn again.

    Attributes:
        teachers: sum of the accuracies (0 to 1) of each image's questions.
        cells: the same of every student cell under every seed.
        count: questions of each image.
    """

    teachers: Float[np.ndarray, "teachers images"]
    cells: Float[np.ndarray, "cells seeds images"]
    count: Float[np.ndarray, " images"]


@dataclass(frozen=True)
class Bootstrap:
    """Estimates in percent and their bootstrap distributions.

    Attributes:
        teachers: accuracy of each teacher.
        cells: accuracy of each cell, the mean over its seeds.
        teacher_draws: over images.
        cell_draws: over images and seeds, of each cell for itself; where a seed's luck
            is common to all cells they know it from few seeds only.
        paired_draws: the same without that common luck, to compare cells by.
        seeds: of every cell.
    """

    teachers: Float[np.ndarray, " teachers"]
    cells: Float[np.ndarray, " cells"]
    teacher_draws: Float[np.ndarray, "draws teachers"]
    cell_draws: Float[np.ndarray, "draws cells"]
    paired_draws: Float[np.ndarray, "draws cells"]
    seeds: int


def bootstrap(scores: Scores, *, draws: int = 2000, seed: int = 0) -> Bootstrap:
    """Return the estimates and `draws` repetitions of them.

    Raises:
        UserError: there is no question to score.
    """
    if not scores.count.sum():
        raise UserError("a study cannot compare answers to no questions: add some")
    rng = np.random.default_rng(seed)
    images = len(scores.count)
    weights = rng.multinomial(images, np.full(images, 1 / images), draws)
    asked = weights @ scores.count
    total = scores.count.sum()
    teachers = 100 * scores.teachers.sum(-1) / total
    by_seed = 100 * scores.cells.sum(-1) / total
    flat = scores.cells.sum(1) / scores.cells.shape[1]
    on_images = 100 * (weights @ flat.T) / asked[:, None]
    luck = _seed_luck(by_seed, draws, rng, blocks=False)
    return Bootstrap(
        teachers=teachers,
        cells=by_seed.mean(1),
        teacher_draws=100 * (weights @ scores.teachers.T) / asked[:, None],
        cell_draws=(on_images + luck).clip(0, 100),
        paired_draws=on_images + _seed_luck(by_seed, draws, rng, blocks=True),
        seeds=by_seed.shape[1],
    )


def _seed_luck(
    scores: Float[np.ndarray, "cells seeds"],
    draws: int,
    rng: np.random.Generator,
    *,
    blocks: bool,
) -> Float[np.ndarray, "draws cells"]:
    """Return draws of what seeds add to the means of cells.

    With `blocks` the mean of each seed over the cells is taken out first.
    """
    cells, seeds = scores.shape
    residuals = scores - scores.mean(1, keepdims=True)
    if blocks:
        residuals = residuals - residuals.mean(0, keepdims=True)
    if cells - blocks < 1 or seeds < 2 or not residuals.any():
        return np.zeros((draws, cells))
    # Unbiased, for taking out means has made the residuals smaller.
    own = (residuals**2).mean(1) * cells / (cells - blocks) * seeds / (seeds - 1)
    freedom = PRIOR_FREEDOM + seeds - 1
    variance = (PRIOR_FREEDOM * own.mean() + (seeds - 1) * own) / freedom
    probability = (1 + LEVEL) / 2
    widened = t.ppf(probability, freedom) / norm.ppf(probability)
    unit = residuals.ravel() / np.sqrt((residuals**2).mean())
    drawn = rng.choice(unit, (draws, cells, seeds)).mean(-1)
    return drawn * np.sqrt(variance) * widened


def interval(estimate: float, draws: Float[np.ndarray, " draws"]) -> Interval:
    """Return the estimate with its percentile interval."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))


def difference(found: Bootstrap, a: int, b: int) -> tuple[Interval, str]:
    """Return cell a minus cell b in points, and whether a is better.

    Of cells with one seed nothing can be said: the interval would know nothing of the
    luck of training.
    """
    draws = found.paired_draws[:, a] - found.paired_draws[:, b]
    gain = interval(found.cells[a] - found.cells[b], draws)
    if found.seeds < 2:
        return gain, UNRESOLVED
    return gain, "better" if gain.low > 0 else "worse" if gain.high < 0 else UNRESOLVED


@dataclass(frozen=True)
class Rank:
    """Spearman's rank correlation and what follows from it.

    Attributes:
        rho: with its bootstrap interval; nan where one side does not vary.
        p_value: two-sided, over all orders of the teachers.
        verdict: in words.
        reason: why, in one sentence.
    """

    rho: Interval
    p_value: float
    verdict: str
    reason: str


def rank_correlation(found: Bootstrap, cells: Sequence[int]) -> Rank:
    """Ask whether stronger teachers have better students.

    Args:
        found: with as many teachers as `cells`.
        cells: the student cell of each teacher, in the teachers' order.
    """
    chosen = list(cells)
    rho = float(spearman(found.teachers[None], found.cells[None, chosen])[0])
    draws = spearman(found.teacher_draws, found.paired_draws[:, chosen])
    # A draw in which one side is constant ranks nothing: it speaks for no order.
    band = interval(rho, np.nan_to_num(draws))
    p_value = permutation_p(found.teachers, found.cells[chosen])
    verdict, reason = _verdict(band, p_value, len(chosen), found.seeds)
    return Rank(band, p_value, verdict, reason)


def _verdict(
    rho: Interval, p_value: float, teachers: int, seeds: int
) -> tuple[str, str]:
    least = min(1.0, 2 / math.factorial(teachers))
    if math.isnan(rho.estimate):
        return UNRESOLVED, "all students, or all teachers, score the same"
    if least > SIGNIFICANT:
        reason = f"with {teachers} teachers even a perfect order has p = {least:.2f}"
        return UNRESOLVED, reason
    if seeds < 2:
        return UNRESOLVED, "one seed does not show how much of this is luck of training"
    if rho.low <= 0 <= rho.high:
        return UNRESOLVED, "the interval of the rank correlation holds zero"
    if p_value > SIGNIFICANT:
        return UNRESOLVED, f"chance alone orders the students so with p = {p_value:.2f}"
    side = "better" if rho.estimate > 0 else "worse"
    reason = f"chance alone orders the students so with p = {p_value:.3f}"
    return f"a stronger teacher makes a {side} student", reason


def spearman(
    a: Float[np.ndarray, "rows n"], b: Float[np.ndarray, "rows n"]
) -> Float[np.ndarray, " rows"]:
    """Return the rank correlation of each row of a with that of b; ties share ranks."""
    x, y = (_centred(rankdata(values, axis=1)) for values in (a, b))
    norms = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / norms


def permutation_p(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], seed: int = 0
) -> float:
    """Return how often an order of b correlates as strongly with a, either way.

    All orders of up to eight values are tried, and random ones of more.
    """
    x, y = _centred(rankdata(a)[None])[0], _centred(rankdata(b)[None])[0]
    size = len(x)
    if size <= MOST_ORDERED:
        orders = np.array(list(itertools.permutations(y)))
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(y, (RANDOM_ORDERS, 1)), axis=1)
        orders = np.concatenate([y[None], orders])
    reached = np.abs(orders @ x) >= abs(x @ y) - 1e-9
    return float(reached.mean())


def _centred(ranks: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, "rows n"]:
    return ranks - ranks.mean(1, keepdims=True)

"""What may be concluded from a few seeds and a thousand images, and what not."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from kdjax.errors import UserError
from kdjax.study.statistics import (
    Scores,
    bootstrap,
    difference,
    permutation_p,
    rank_correlation,
    spearman,
)

IMAGES, QUESTIONS = 300, 5


def scores(teachers, cells, seeds, rng, images=IMAGES, spread=0.0, block=0.0):
    """Return scores whose true accuracies are given, seeds spreading around them."""
    shared = block * rng.normal(size=(1, seeds))
    truth = (
        np.asarray(cells)[:, None]
        + shared
        + spread * rng.normal(size=(len(cells), seeds))
    )
    # Images are hard or easy for all models: one uniform number decides for each.
    hardness = rng.uniform(size=(images, QUESTIONS))

    def right(accuracy):
        return (hardness < accuracy).sum(-1).astype(float)

    return Scores(
        np.array([right(accuracy) for accuracy in teachers]),
        np.array([[right(accuracy) for accuracy in row] for row in truth]),
        np.full(images, float(QUESTIONS)),
    )


def test_estimates_are_accuracies_in_percent():
    found = bootstrap(
        Scores(
            np.array([[2.0, 1.0]]),
            np.array([[[2.0, 0.5], [1.0, 0.5]]]),
            np.array([2.0, 1.0]),
        )
    )
    assert found.teachers == pytest.approx([100.0])
    assert found.cells == pytest.approx([100 * (2.5 + 1.5) / 2 / 3])


def test_equal_seeds_give_equal_draws():
    rng = np.random.default_rng(0)
    data = scores([0.8, 0.9], [0.6, 0.7], 2, rng, spread=0.01)
    one, two = (bootstrap(data, draws=50, seed=3) for _ in range(2))
    assert np.array_equal(one.cell_draws, two.cell_draws)
    assert np.array_equal(one.teacher_draws, two.teacher_draws)


def test_identical_cells_do_not_differ():
    rng = np.random.default_rng(0)
    data = scores([0.8], [0.6, 0.7], 1, rng)
    same = Scores(data.teachers, data.cells[[0, 0]], data.count)
    gain, verdict = difference(bootstrap(same, draws=200), 0, 1)
    assert (gain.estimate, gain.low, gain.high) == (0, 0, 0)
    assert verdict == "not resolvable"


def test_one_seed_resolves_nothing():
    rng = np.random.default_rng(0)
    found = bootstrap(scores([0.8], [0.4, 0.9], 1, rng), draws=200)
    gain, verdict = difference(found, 1, 0)
    assert gain.low > 0
    assert verdict == "not resolvable"


def test_a_large_difference_is_resolved_both_ways():
    rng = np.random.default_rng(0)
    truth = [0.5, 0.7, 0.7, 0.6, 0.6]
    found = bootstrap(scores([0.8], truth, 2, rng, spread=0.02), draws=500)
    assert difference(found, 1, 0)[1] == "better"
    assert difference(found, 0, 1)[1] == "worse"
    assert difference(found, 1, 2)[1] == "not resolvable"


def test_the_luck_that_a_seed_brings_to_all_cells_cancels():
    truth = [0.6, 0.62, 0.64, 0.66, 0.68, 0.7]
    data = scores([0.8], truth, 2, np.random.default_rng(1), images=4000, block=0.05)
    found = bootstrap(data, draws=500)
    gain, verdict = difference(found, 5, 0)
    assert verdict == "better"
    assert gain.high - gain.low < 3
    assert np.ptp(np.quantile(found.cell_draws[:, 0], [0.025, 0.975])) > 4


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_of_differences_cover_the_truth(seeds):
    """In nominal 95 % of experiments; 200 of them measure it to about 1.5 points."""
    rng = np.random.default_rng(seeds)
    truth = [0.6, 0.62, 0.64, 0.66, 0.7, 0.72, 0.74]
    hit, trials = 0, 200
    for trial in range(trials):
        data = scores([0.8], truth, seeds, rng, images=200, spread=0.02, block=0.02)
        gain, _ = difference(bootstrap(data, draws=300, seed=trial), 4, 1)
        hit += gain.low <= 100 * (truth[4] - truth[1]) <= gain.high
    assert 0.91 <= hit / trials <= 1.0


def test_intervals_cover_the_truth_where_cells_differ_in_luck():
    """What may fail varies more than what cannot; pooled, 73 % would be covered."""
    rng = np.random.default_rng(0)
    truth = [0.85, 0.88, 0.93, 0.84, 0.88, 0.92, 0.89]
    spread = np.array([[0.15, 0.7, 2.4, 0.2, 0.5, 5.2, 1.8]]).T / 100
    hit, trials = 0, 200
    for trial in range(trials):
        data = scores([0.9], truth, 2, rng, images=200, spread=spread, block=0.01)
        gain, _ = difference(bootstrap(data, draws=300, seed=trial), 5, 6)
        hit += gain.low <= 100 * (truth[5] - truth[6]) <= gain.high
    assert hit / trials >= 0.86


def test_no_questions_are_refused():
    with pytest.raises(UserError, match="no questions"):
        bootstrap(Scores(np.zeros((1, 2)), np.zeros((1, 1, 2)), np.zeros(2)))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9)
)
def test_rank_correlation_is_scipys(pairs):
    a, b = np.array(pairs, float).T
    ours = float(spearman(a[None], b[None])[0])
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(spearmanr(a, b).statistic)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=5), st.randoms())
def test_p_value_counts_orders(values, random):
    b = list(values)
    random.shuffle(b)
    a = [float(x) for x in values]
    observed = abs(np.cov(a, b)[0, 1])
    orders = list(itertools.permutations(b))
    # Ranks and values agree in which orders are extreme only where values are ranks.
    if sorted(set(a)) == sorted(a):
        from scipy.stats import rankdata

        x = rankdata(a)
        observed = abs(np.cov(x, rankdata(b))[0, 1])
        reached = [abs(np.cov(x, rankdata(o))[0, 1]) >= observed - 1e-9 for o in orders]
        assert permutation_p(np.array(a), np.array(b, float)) == pytest.approx(
            np.mean(reached)
        )


def test_p_value_of_many_teachers_is_sampled():
    x = np.arange(12.0)
    assert permutation_p(x, x) < 1e-4
    shuffled = np.random.default_rng(0).permutation(x)
    assert permutation_p(x, shuffled) > 0.05


def test_three_teachers_are_never_resolved():
    rng = np.random.default_rng(0)
    data = scores([0.6, 0.8, 0.95], [0.5, 0.6, 0.7], 2, rng, spread=0.005)
    rank = rank_correlation(bootstrap(data, draws=300), [0, 1, 2])
    assert rank.rho.estimate == pytest.approx(1.0)
    assert rank.p_value == pytest.approx(1 / 3)
    assert rank.verdict == "not resolvable"
    assert rank.reason == "with 3 teachers even a perfect order has p = 0.33"


@pytest.mark.parametrize(("sign", "side"), [(1, "better"), (-1, "worse")])
def test_six_teachers_in_order_are_resolved(sign, side):
    rng = np.random.default_rng(0)
    strength = np.linspace(0.5, 0.95, 6)
    students = np.linspace(0.4, 0.9, 6)[::sign]
    data = scores(strength, students, 2, rng, spread=0.005)
    rank = rank_correlation(bootstrap(data, draws=300), range(6))
    assert rank.verdict == f"a stronger teacher makes a {side} student"
    assert rank.p_value == pytest.approx(2 / math.factorial(6))


def test_students_without_order_are_not_resolved():
    rng = np.random.default_rng(4)
    strength = np.linspace(0.5, 0.95, 6)
    data = scores(strength, [0.7] * 6, 3, rng, spread=0.03)
    rank = rank_correlation(bootstrap(data, draws=300), range(6))
    assert rank.verdict == "not resolvable"
    assert rank.rho.low < 0 < rank.rho.high


def test_equal_teachers_have_no_order():
    rng = np.random.default_rng(0)
    data = scores([0.8] * 6, np.linspace(0.4, 0.9, 6), 2, rng)
    rank = rank_correlation(bootstrap(data, draws=50), range(6))
    assert math.isnan(rank.rho.estimate)
    assert rank.verdict == "not resolvable"
    assert rank.reason == "all students, or all teachers, score the same"

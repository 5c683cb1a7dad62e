"""The best step is kept and returned, and time is over for all hosts or for none."""

import math
from dataclasses import replace

import jax
import pytest
from etils import epath
from training.little import LOOP, assert_equal, fit

from kdjax.errors import UserError
from kdjax.training import loop
from kdjax.training.checkpoints import steps_of
from kdjax.training.choosing import Alarm, Best, Choice
from kdjax.training.interrupt import Interrupted
from kdjax.training.loop import Trained

METRIC = "validation/accuracy"
SCORES = {2: 5.0, 4: 7.0, 6: 7.0, 8: 6.0}


def evaluate(state):
    return {METRIC: SCORES[int(state.step)], "validation/other": 1.0}


def test_of_equal_scores_the_first_is_the_best_and_what_is_no_number_never():
    largest, smallest = Choice(METRIC), Choice(METRIC, "min")
    best = None
    for step, score in enumerate([math.nan, 2.0, math.inf, 1.0, 3.0, 3.0], 1):
        best = largest.after(step, {METRIC: score}, best)
    assert best == Best(5, 3.0)
    with pytest.raises(UserError, match="the evaluators say nothing"):
        largest.after(9, {}, best)
    assert smallest.after(9, {METRIC: 1.0}, best) == Best(9, 1.0)
    assert smallest.after(9, {METRIC: 3.0}, best) == best


def params_after(step, workdir):
    """The parameters after a step of a run that never stops."""
    seen = {}

    def look(state):
        seen[int(state.step)] = jax.device_get(state.params)
        return {}

    fit(workdir, replace(LOOP, evaluate_every=2), evaluate=look)
    return seen[step]


@pytest.fixture
def trained(monkeypatch):
    """What training ended with, beside its state."""
    ended = []
    train = loop.train

    def remember(*args, **kwargs):
        ended.append(train(*args, **kwargs))
        return ended[-1]

    monkeypatch.setattr("training.little.train", remember)
    return ended


@pytest.mark.parametrize(("mode", "step"), [("max", 4), ("min", 2)])
def test_a_run_ends_with_its_best_step_however_often_it_stops(
    mode, step, trained, tmp_path
):
    """A better step has a checkpoint of its own, which stays."""
    config = replace(
        LOOP, checkpoint_every=100, keep=1, evaluate_every=2, best=Choice(METRIC, mode)
    )

    def stop(number, numbers):
        if number == 6:
            raise Interrupted(15)

    expected = params_after(step, tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", config, evaluate=evaluate, watch=[stop])
    assert steps_of(epath.Path(tmp_path / "run")) == [step]
    for _ in range(2):  # The second time there is nothing left to do.
        state = fit(tmp_path / "run", config, evaluate=evaluate)
        assert_equal(state.params, expected)
        assert trained[-1].ends == {
            "best": {"step": step, METRIC: SCORES[step]},
            "last": {"step": 8, METRIC: 6.0, "validation/other": 1.0},
        }
        assert steps_of(epath.Path(tmp_path / "run")) == [8, step]


def test_a_score_that_is_not_there_is_named_with_those_that_are(tmp_path):
    config = replace(LOOP, evaluate_every=2, best=Choice("test/accuracy"))
    with pytest.raises(UserError, match="say validation/accuracy, validation/other"):
        fit(tmp_path, config, evaluate=evaluate)


def test_an_alarm_rings_when_the_time_is_over_and_not_before():
    assert not Alarm(0.0).rings()
    assert not Alarm(1e6).rings()
    assert Alarm(1e-9).rings()


def test_minutes_save_where_a_line_is_logged_and_change_nothing(tmp_path):
    often = replace(LOOP, checkpoint_every=100, checkpoint_minutes=1e-9)
    assert_equal(fit(tmp_path / "often", often), fit(tmp_path / "never"))
    assert steps_of(epath.Path(tmp_path / "often")) == [8, 6, 3]


def test_another_seed_does_not_go_on_and_seconds_do(trained, tmp_path):
    fit(tmp_path)
    with pytest.raises(UserError, match="begun with the seed 0, and the config says 1"):
        fit(tmp_path, replace(LOOP, seed=1))
    seconds = trained[0].seconds
    fit(tmp_path)
    assert isinstance(trained[1], Trained)
    assert trained[1].seconds > 0.5 * seconds
    assert jax.tree.leaves(trained[1].ends) == []

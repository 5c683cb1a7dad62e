"""Seconds belong to the step in which they were spent."""

import pytest

from kdjax.training import stopwatch
from kdjax.training.stopwatch import Stopwatch


@pytest.fixture
def spend(monkeypatch):
    """A clock that goes when it is told to."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])

    def spend(clock, number, /, **seconds):
        for phase, some in seconds.items():
            with clock.measure(phase, number):
                now[0] += some

    return spend


def test_a_lap_is_of_its_own_steps_also_when_later_ones_have_begun(spend):
    clock = Stopwatch(10)
    for step in (11, 12, 13, 14):
        spend(clock, step, data=1.0, step=float(step))
    spend(clock, 12, step=2.0)
    assert clock.lap(12) == {"data": 1, "step": 12.5, "checkpoint": 0, "evaluation": 0}
    spend(clock, 15, checkpoint=6.0)
    spend(clock, 14, evaluation=2.0)
    assert clock.lap(14) == {"data": 1, "step": 13.5, "checkpoint": 0, "evaluation": 1}
    assert clock.lap(15)["checkpoint"] == 6


def test_a_failure_inside_is_measured_too(spend):
    clock = Stopwatch(0)
    with pytest.raises(ZeroDivisionError), clock.measure("step", 1):
        spend(clock, 1, data=2.0)
        raise ZeroDivisionError
    assert clock.lap(1)["step"] == 2

"""A run that is killed in the middle of things ends as one that never was."""

import signal

import pytest
from training.drill import Drill

PHASES = ("step", "evaluation", "checkpoint")


@pytest.fixture(scope="module")
def drill(tmp_path_factory):
    return Drill(tmp_path_factory.mktemp("drill"))


def test_three_kills_change_nothing(drill):
    """Bit for bit: the model, the metrics, the scores, all of the state.

    Nor does one that is asked to stop while it compiles, which does so at once.
    `make drill` does so at more moments.
    """
    expected = drill.end("undisturbed")
    assert [row["step"] for row in expected["metrics"]] == list(range(1, 25))
    asked = drill.kill("killed", "compile", signum=signal.SIGTERM)
    assert asked == "compile"
    assert not (drill.folder / "killed/results.json").exists()
    for phase in PHASES:
        assert drill.kill("killed", phase) == phase
    assert drill.end("killed") == expected

"""Steps that are not finite, and what is told of those that are over."""

import json
from dataclasses import replace

import pytest
from etils import epath
from training.little import LOOP, assert_equal, fit, records

from kdjax.errors import UserError
from kdjax.parallel import to_global
from kdjax.training import loop
from kdjax.training.checkpoints import Checkpoints
from kdjax.training.journal import AHEAD
from kdjax.training.metrics import read_metrics

# Of the batches of the third, the fifth and the sixth step, and of the seventh.
BAD = [records(3)[1], records(5)[0], records(6)[3]]
WORSE = [*BAD, records(7)[2]]


def dumped(workdir):
    lines = (workdir / "nonfinite.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class FaultError(Exception):
    """The machine fails."""


def fail_at(step):
    def watch(number, numbers):
        if number == step:
            raise FaultError

    return watch


def test_skipped_steps_are_counted_and_dumped_once_after_a_fault_too(tmp_path):
    whole = fit(tmp_path / "whole", bad=BAD)
    expected = [{"step": k, "index": records(k)} for k in (3, 5, 6)]
    assert dumped(tmp_path / "whole") == expected
    assert (int(whole.step), int(whole.skipped)) == (8, 3)
    rows = read_metrics(epath.Path(tmp_path / "whole"))
    counts = [(x["step"], x["skipped"], x["skipped_in_a_row"]) for x in rows]
    assert counts == [(3, 1, 1), (6, 3, 2), (8, 3, 0)]
    assert [row["loss"] is None for row in rows] == [True, True, False]
    # When it fails, steps 5 and 6 are dumped already and no checkpoint has them.
    rarely = replace(LOOP, checkpoint_every=4)
    with pytest.raises(FaultError):
        fit(tmp_path / "failed", rarely, bad=BAD, watch=[fail_at(6)])
    assert dumped(tmp_path / "failed") == expected
    assert_equal(whole, fit(tmp_path / "failed", rarely, bad=BAD))
    assert dumped(tmp_path / "failed") == expected


def test_too_many_in_a_row_stop_the_run_and_a_resumed_one_as_well(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match="not finite at step 7, as it was in 2 be"):
            fit(tmp_path, bad=WORSE)
        assert [x["step"] for x in dumped(tmp_path)] == [3, 5, 6, 7]
    # The last checkpoint is of step 6, and the count of two goes on from it.
    assert not (tmp_path / "checkpoints" / "8").exists()
    state = fit(tmp_path, replace(LOOP, max_nonfinite=4), bad=WORSE)
    assert (int(state.step), int(state.skipped)) == (8, 4)


def test_without_such_a_step_there_is_no_file(tmp_path):
    fit(tmp_path)
    assert not (tmp_path / "nonfinite.jsonl").exists()


def test_every_step_is_told_once_in_order_and_soon(tmp_path, monkeypatch):
    """A checkpoint comes after all that is known of its step and those before."""
    begun, told, saved = [], [], []

    def begin(batch, mesh):
        begun.append(len(begun) + 1)
        return to_global(batch, mesh)

    def watch(step, numbers):
        assert begun[-1] - step <= AHEAD
        told.append((step, bool(numbers)))

    save = Checkpoints.save

    def look(self, state, *others):
        rows = read_metrics(epath.Path(tmp_path))
        saved.append((int(state.step), told[-1][0], [row["step"] for row in rows]))
        save(self, state, *others)

    monkeypatch.setattr(loop, "to_global", begin)
    monkeypatch.setattr(Checkpoints, "save", look)
    fit(tmp_path, watch=[watch])
    assert told == [(step, step in (3, 6, 8)) for step in range(1, 9)]
    assert saved == [(2, 2, []), (4, 4, [3]), (6, 6, [3, 6]), (8, 8, [3, 6, 8])]


def test_a_line_that_cannot_be_written_stops_the_run(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        fit(tmp_path)

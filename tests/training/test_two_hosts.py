"""What of a run two hosts do together beside its steps, each a process.

This file is the program that they run, and what starts them.
"""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from objectives.on_devices import TESTS, free_port, together, with_devices

from kdjax import hosts
from kdjax.training.interrupt import Interrupted

BAD, LIMIT = (9,), 120.0  # of the third step
# A run that goes on from a step that is later than all of the run before it.
BEFORE, AFTER = 12, 18


def test_a_trace_with_a_skipped_step_and_a_signal_between_two_runs(tmp_path):
    """All gather the step's records, and all hear of the signal in the second run."""
    from training.little import LOOP, fit, records

    fit(tmp_path / "resumed", replace(LOOP, steps=BEFORE), bad=BAD)
    port, started = str(free_port()), []
    with (tmp_path / "errors.txt").open("w+") as errors:
        for place in range(2):
            program = [sys.executable, "-m", "training.test_two_hosts"]
            started.append(
                subprocess.Popen(
                    [*program, str(tmp_path), port, str(place)],
                    cwd=TESTS,
                    env=with_devices(1),
                    stdout=errors,
                    stderr=errors,
                )
            )
        ended = together(started, LIMIT)
        errors.seek(0)
        assert ended == [0, 0], errors.read()
    (line,) = (tmp_path / "traced/nonfinite.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "index": records(3)}
    (trace,) = (tmp_path / "traced").glob("profile/plugins/profile/*/*.xplane.pb")
    assert b"jit_step" in trace.read_bytes()
    state = fit(tmp_path / "traced", bad=BAD)
    assert (int(state.step), int(state.skipped)) == (LOOP.steps, 1)
    saved = [int(path.name) for path in (tmp_path / "resumed/checkpoints").iterdir()]
    assert BEFORE < max(saved) < AFTER


def main(folder: str, port: str, place: str) -> None:
    hosts.start(f"127.0.0.1:{port}", 2, int(place))
    from training.little import LOOP, fit  # whose mesh is of all devices

    fit(Path(folder, "traced"), replace(LOOP, profile=(2, 3)), bad=BAD)
    if not hosts.is_first():
        signal.raise_signal(signal.SIGTERM)
    time.sleep(2)  # JAX tells the other
    loop = replace(LOOP, steps=AFTER, checkpoint_every=AFTER)
    slowly = [lambda step, numbers: time.sleep(0.5)]
    with pytest.raises(Interrupted):
        fit(Path(folder, "resumed"), loop, bad=BAD, watch=slowly)


if __name__ == "__main__":
    main(*sys.argv[1:])

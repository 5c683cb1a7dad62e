"""The comparison of speed, of small models and without its peer."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_distillation_is_timed_round_by_round(tmp_path):
    file = tmp_path / "speed.json"
    options = ("--tiny", "--alone", "--kinds", "distill", "--rounds", "2")
    done = run(*options, "--steps", "3", "--out", str(file))
    assert done.returncode == 0, done.stderr
    first, line, where = done.stdout.splitlines()
    assert first == "distill tiny-16 to nano-16, batch 8, float32"
    assert "ms a step" in line and "model TFLOP/s" in line
    assert where == str(file)
    found = json.loads(file.read_text())
    assert found["machine"]["cores"] >= 1
    (result,) = found["results"]
    seconds = result["seconds"]["kdjax"]
    assert len(seconds) == 2 and all(x > 0 for x in seconds)
    said = result["said"]["kdjax"]
    # A CPU has no peak; the loss is that of the models that a peer would open.
    assert said["peak"] is None and said["flops"] > 0 and said["loss"] > 0


def test_what_cannot_be_timed_is_refused():
    done = run("--kinds", "backward")
    assert done.returncode == 2
    assert "invalid choice: 'backward'" in done.stderr

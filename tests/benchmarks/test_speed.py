"""The comparison of speed, of small models and without its peer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.speed.__main__ as speed
from benchmarks.speed.__main__ import busy

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
    machine = found["machine"]
    assert machine["cores"] >= 1 and machine["memory"] > 2**28
    assert {"instructions", "commit", "load"} <= machine.keys()
    (result,) = found["results"]
    seconds = result["seconds"]["kdjax"]
    assert len(seconds) == 2 and all(x > 0 for x in seconds)
    said = result["said"]["kdjax"]
    # A CPU has no peak; the loss is that of the models that a peer would open.
    assert said["peak"] is None and said["flops"] > 0 and said["loss"] > 0


def test_a_busy_machine_is_named():
    assert busy(0.9, 2) == ""
    assert busy(6.0, 2).startswith("the machine is busy (load 6.0 on 2 cores)")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--kinds", "backward"), "invalid choice: 'backward'"),
        (("--rounds", "0"), "--rounds: '0' is no number from 1 on"),
        (("--steps", "0"), "--steps: '0' is no number from 1 on"),
        (("--batch", "-2"), "--batch: "),
        (("--remat", "dots"), "--remat: invalid choice: 'dots'"),
        (("--tiny", "--large"), "not allowed with argument --tiny"),
        (("--alone", "--compiled"), "not allowed with argument --alone"),
        (("--alone", "--out", f"{__file__}/speed.json"), "results cannot be written"),
        (("--alone", "--out", str(ROOT)), "results cannot be written"),
        ((), "needs torch and transformers: make bench, or --alone"),
    ],
)
def test_what_cannot_be_timed_is_one_sentence(options, said, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        speed.parse(options)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and told.count("\n") == 1

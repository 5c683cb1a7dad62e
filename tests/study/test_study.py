"""A whole study through the real command line: its numbers, and killing it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

SMOKE = "--config=configs/study/smoke.py"
# Few test images and steps: what is asked here is that everything is there and right.
SMALL = ["--config.seeds=(0,)", "--config.bootstrap_draws=200"]


def command(*arguments):
    return [sys.executable, "-m", "kdjax", *map(str, arguments)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Start a study, kill it with SIGKILL in its second run, and start it again."""
    folder = tmp_path_factory.mktemp("study")
    arguments = command("study", SMOKE, f"--workdir={folder / 'smoke'}", *SMALL)
    killed = False
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as first:
        for line in first.stderr:
            if "step 4 of 8" in line:
                os.kill(first.pid, signal.SIGKILL)
                killed = True
                break
    assert killed
    assert first.returncode == -signal.SIGKILL
    again = subprocess.run(arguments, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    return folder, again


def rows_of(folder):
    with (folder / "smoke" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_killed_study_goes_on(study):
    _, again = study
    assert "runs are there already" in again.stderr


def test_the_table_has_every_run_and_control(study):
    folder, _ = study
    rows = rows_of(folder)
    kinds = [row["kind"] for row in rows]
    assert [kinds.count(k) for k in ("teacher", "baseline", "student")] == [2, 1, 2]
    assert {r["name"] for r in rows if r["kind"] == "control"} == {
        "majority",
        "question_only",
        "blanked",
    }


def test_numbers_are_those_of_the_official_metric(study):
    """Every accuracy follows from the run's own predictions; controls are known."""
    from kdjax.data.easy_vqa import EasyVQA

    folder, _ = study
    source = EasyVQA("validation")
    truth = {q.question_id: q.answers[0] for record in source for q in record.questions}
    for row in rows_of(folder):
        accuracy = float(row["vqa_accuracy"])
        if row["run"]:
            run = folder / "cells" / f"vqa-{row['run']}"
            said = json.loads((run / "predictions.json").read_text())
            # All annotators agree here, so the metric is plain accuracy.
            right = [truth[a["question_id"]] == a["answer"] for a in said]
            assert len(right) == len(truth)
            assert accuracy == pytest.approx(100 * np.mean(right))
    controls = {r["name"]: float(r["vqa_accuracy"]) for r in rows_of(folder)}
    assert controls["majority"] == pytest.approx(37.0, abs=1.0)
    assert controls["question_only"] == pytest.approx(67.0, abs=1.5)


def test_steps_are_those_of_both_trainings(study):
    folder, _ = study
    steps = {row["name"]: int(row["steps"]) for row in rows_of(folder)}
    assert steps["weak"] == 4 + 8
    assert steps["strong"] == 12 + 8
    assert steps["nano-16 from strong by clip_kd"] == 8 + 8
    assert steps["majority"] == 0


def test_a_killed_run_ends_like_an_undisturbed_one(study, tmp_path):
    """Bit for bit, on this machine's CPU: the run that was killed, once more alone."""
    folder, _ = study
    (killed,) = [
        run
        for run in (folder / "cells").glob("vqa-*")
        if json.loads((run / "config.json").read_text())["tower"].startswith("pretrain")
        and len(list((run / "tensorboard").glob("events*"))) == 2
    ]
    config = json.loads((killed / "config.json").read_text())
    tower = folder / "cells" / config["tower"]
    done = subprocess.run(
        command(
            "vqa",
            "--config=configs/vqa/easy_vqa.py",
            f"--workdir={tmp_path / 'alone'}",
            f"--config.tower={tower}",
            f"--config.seed={config['seed']}",
            f"--config.steps={config['steps']}",
            f"--config.batch_size={config['batch_size']}",
            *(f"--config.head.{key}={value}" for key, value in config["head"].items()),
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (
        load_file(run / "model/vqa.safetensors") for run in (killed, tmp_path / "alone")
    )
    assert one.keys() == two.keys()
    for name in one:
        assert np.array_equal(one[name], two[name]), name


def test_metrics_have_every_logged_step_once(study):
    folder, _ = study
    for path in (folder / "cells").glob("*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        config = json.loads((path.parent / "config.json").read_text())
        assert steps == sorted({*range(4, config["steps"] + 1, 4), config["steps"]})


def test_the_page_loads_nothing(study):
    folder, again = study
    page = (folder / "smoke" / "report.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page and 'href="http' not in page
    assert str(folder / "smoke" / "report.html") in again.stdout.replace("\n", "")
    assert "nano-16 from strong by clip_kd" in page


def test_a_finished_study_only_counts_again(study):
    folder, _ = study
    started = time.time()
    done = subprocess.run(
        command("study", SMOKE, f"--workdir={folder / 'smoke'}", *SMALL),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    runs = list((folder / "cells").glob("*/results.json"))
    assert runs
    assert max(run.stat().st_mtime for run in runs) < started


def test_another_study_shares_the_runs(study):
    folder, _ = study
    before = {p: p.stat().st_mtime for p in (folder / "cells").glob("*/results.json")}
    done = subprocess.run(
        command(
            "study",
            SMOKE,
            f"--workdir={folder / 'other'}",
            *SMALL,
            "--config.title=Another?",
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    after = {p: p.stat().st_mtime for p in (folder / "cells").glob("*/results.json")}
    assert after == before

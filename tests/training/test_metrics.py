"""A run's numbers, as lines and as told to Weights & Biases."""

import io
import json
import sys
import time

import pytest
import wandb
from etils import epath

from kdjax.errors import UserError
from kdjax.training.metrics import MetricsWriter, wandb_run


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield
    wandb.teardown()  # it reads the environment once


def written(tmp_path):
    wandb.teardown()  # a process of its own writes; it has ended when this returns
    return [path.read_bytes() for path in tmp_path.glob("wandb/offline-*/*.wandb")]


@pytest.fixture
def told_of(tmp_path):
    """Return what is told the numbers of a run, in a folder of that name."""

    def told_of(project="teachers", name="run", config=None):
        workdir = epath.Path(tmp_path / name)
        workdir.mkdir(exist_ok=True)
        return wandb_run(project, workdir, "0123abcd", config or {})

    return told_of


def test_numbers_and_config_go_there_under_the_runs_name(told_of, tmp_path):
    with told_of(config={"student": "nano-16"}) as watch:
        watch(2, {"loss": 0.71875, "crd": 0.5})
    (told,) = written(tmp_path)
    for said in (b"teachers", b"student", b"nano-16", b"loss", b"0.71875", b"crd"):
        assert said in told
    assert b"0123abcd" in told


def test_a_run_that_goes_on_is_one_there_and_an_equal_one_elsewhere_another(told_of):
    ids = []
    for name in ("run", "equal", "run"):
        with told_of(name=name):
            ids.append(wandb.run.id)
    assert ids[0] == ids[2] != ids[1]


def test_no_project_no_run(told_of, tmp_path):
    with told_of("") as watch:
        watch(2, {"loss": 0.5})
    assert written(tmp_path) == []


def test_a_package_that_is_not_here_is_named(told_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(UserError, match=r"pip install 'kdjax\[wandb\]'"),
        told_of(),
    ):
        pass


def test_a_login_that_is_missing_is_one_line(told_of, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with (
        pytest.raises(UserError, match="WANDB_MODE=offline"),
        told_of(),
    ):
        pass


def test_what_is_told_of_a_step_without_numbers_is_nothing(told_of, tmp_path):
    with told_of() as watch:
        watch(1, {})
        watch(2, {"validation/zero_shot_accuracy": 43.75})
    (told,) = written(tmp_path)
    assert b"validation/zero_shot_accuracy" in told and b"43.75" in told


def test_numbers_that_are_not_finite_are_null_and_no_event(tmp_path):
    workdir = epath.Path(tmp_path)
    writer = MetricsWriter(workdir, 0, time.monotonic())
    writer.write(1, {"loss": float("nan"), "grad_norm": float("inf"), "clip": 2.0})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=pytest.fail)
    assert (row["loss"], row["grad_norm"], row["clip"]) == (None, None, 2.0)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"clip" in events.read_bytes() and b"loss" not in events.read_bytes()

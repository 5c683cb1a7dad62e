"""Question answering as a command: what a frozen tower and the blank control see."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.cli import run
from kdjax.config import load_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "nano-16", 4, 8
    run("pretrain", config, str(folder / "tower"), quiet=True)
    return folder


def losses(folder, name, *, vision_rate=0.0, **changes):
    config = load_config("configs/vqa/easy_vqa.py")
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    config.tower = "tower"
    config.optimizer.vision_rate = vision_rate
    for key, value in changes.items():
        config[key] = value
    results = run("vqa", config, str(folder / name), quiet=True)
    assert 0 <= results["vqa_accuracy"] <= 100
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def tower_of(folder, name):
    tensors = load_file(folder / name / "model/vqa.safetensors")
    return {k: v for k, v in tensors.items() if k.startswith("vision/")}


@pytest.mark.parametrize("tower", ["tower", "nano-16"])
def test_held_tokens_are_those_of_every_step(folder, tower):
    held, computed = (
        losses(folder, f"{tower}-{outputs}", tower=tower, tower_outputs=outputs)
        for outputs in ("held", "computed")
    )
    np.testing.assert_allclose(held[0], computed[0], rtol=1e-5)
    np.testing.assert_allclose(held, computed, rtol=1e-4)


def test_a_frozen_tower_stays_and_another_learns(folder):
    losses(folder, "frozen")
    losses(folder, "learning", vision_rate=1.0)
    losses(folder, "frozen-computed", tower_outputs="computed")
    frozen, learning, computed = (
        tower_of(folder, name) for name in ("frozen", "learning", "frozen-computed")
    )
    assert frozen.keys() == learning.keys()
    for name in frozen:
        np.testing.assert_array_equal(frozen[name], computed[name])
    assert any((frozen[name] != learning[name]).any() for name in frozen)


def test_tokens_of_a_tower_that_learns_are_not_held(folder, capsys):
    config = load_config("configs/vqa/easy_vqa.py")
    config.steps, config.batch_size, config.tower = 1, 8, "tower"
    config.optimizer.vision_rate = 1.0
    run("vqa", config, str(folder / "said"))
    assert "tower_outputs held needs a frozen tower" in capsys.readouterr().err

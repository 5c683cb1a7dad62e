"""A teacher's outputs are the same, held or computed in every step."""

import json

import numpy as np
import pytest

from kdjax.cli import run
from kdjax.config import load_config


def small(command, **changes):
    config = load_config(f"configs/{command}/easy_vqa.py")
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    for key, value in changes.items():
        config[key] = value
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run(
        "pretrain",
        small("pretrain", model="nano-16"),
        str(folder / "teacher"),
        quiet=True,
    )
    return folder


def losses(folder, name, **changes):
    config = small("distill", teacher="teacher", student="nano-16", **changes)
    run("distill", config, str(folder / name), quiet=True)
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return np.array([[row["loss"], row["crd"], row["fd"], row["icl"]] for row in rows])


def test_held_outputs_are_those_of_every_step(folder):
    held = losses(folder, "held", teacher_outputs="held")
    computed = losses(folder, "computed", teacher_outputs="computed")
    np.testing.assert_allclose(held[0], computed[0], rtol=1e-5)
    np.testing.assert_allclose(held, computed, rtol=1e-4)


def test_the_teachers_scale_changes_what_it_says(folder):
    own = losses(folder, "own", teacher_scale="own")
    sharp = losses(folder, "sharp", teacher_scale="100")
    assert sharp[0, 1] != pytest.approx(own[0, 1], rel=1e-2)
    assert sharp[0, 2] == pytest.approx(own[0, 2], rel=1e-6)

"""Objectives that compare relations and representations, in a run."""

import json

import numpy as np
import pytest

import kdjax
from kdjax.config import load_config

NAMES = (
    "similarity",
    "rkd",
    "pkt",
    "cka",
    "procrustes",
    "dist",
    "logit_std",
    "dime_fm",
)


def small(command, **changes):
    config = load_config(f"configs/{command}/easy_vqa.py")
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    teacher = small("pretrain", model="tiny-16")
    kdjax.run("pretrain", teacher, str(folder / "teacher"), quiet=True)
    return folder


def test_a_student_learns_from_all_of_them(folder):
    """Of another width than its teacher's, whose outputs are held."""
    config = small(
        "distill", teacher="teacher", student="nano-16", teacher_outputs="held"
    )
    config.objectives = {name: {} for name in NAMES}
    kdjax.run("distill", config, str(folder / "student"), quiet=True)
    lines = (folder / "student/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    terms = np.array([[row[name] for name in NAMES] for row in rows])
    assert np.isfinite(terms).all()
    assert (terms[0] > 0).all()
    assert (terms[-1] != terms[0]).all()
    assert [row["loss"] for row in rows] == pytest.approx(terms.sum(axis=1), rel=1e-5)

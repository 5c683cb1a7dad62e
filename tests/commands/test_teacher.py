"""Teachers' outputs are the same, held or computed in every step."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.cli import run
from kdjax.config import load_config
from kdjax.errors import UserError


def small(command, **changes):
    config = load_config(f"configs/{command}/easy_vqa.py")
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    for key, value in changes.items():
        config[key] = value
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, model in (("teacher", "nano-16"), ("larger", "tiny-16")):
        run("pretrain", small("pretrain", model=model), str(folder / name), quiet=True)
    return folder


def losses(folder, name, **changes):
    config = small("distill", **{"teacher": "teacher", "student": "nano-16", **changes})
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


BOTH = "teacher, larger"


def results_of(folder, name):
    return json.loads((folder / name / "results.json").read_text())


def test_so_are_those_of_several_teachers(folder):
    held = losses(folder, "both", teacher=BOTH, teacher_outputs="held")
    computed = losses(folder, "each", teacher=BOTH, teacher_outputs="computed")
    np.testing.assert_allclose(held[0], computed[0], rtol=1e-5)
    np.testing.assert_allclose(held, computed, rtol=1e-4)
    scales = results_of(folder, "both")["calibrated_scale"]
    assert len(scales) == 2
    assert scales == pytest.approx(results_of(folder, "each")["calibrated_scale"])
    assert scales[0] == pytest.approx(results_of(folder, "held")["calibrated_scale"])


def test_a_loss_against_several_teachers_is_the_mean_of_those_against_each(folder):
    both, first, second = (
        losses(folder, f"{scale} of {teacher}", teacher=teacher, teacher_scale=scale)
        for teacher, scale in ((BOTH, "70,60"), ("teacher", "70"), ("larger", "60"))
    )
    crd = 1
    assert first[0, crd] != pytest.approx(second[0, crd], rel=1e-2)
    expected = (first[0, crd] + second[0, crd]) / 2
    assert both[0, crd] == pytest.approx(expected, rel=1e-4)


def test_a_run_of_several_teachers_knows_them_all(folder):
    losses(folder, "known", teacher=BOTH)
    made_from = json.loads((folder / "known/config.json").read_text())["made_from"]
    for index, name in enumerate(("teacher", "larger")):
        assert made_from[f"teacher_{index}"]["run"] == results_of(folder, name)["run"]


def test_a_student_of_several_takes_its_texts_from_the_first(folder):
    config = small("distill", teacher="larger,teacher", student="nano-16", steps=0)
    config.text_tower = "teacher"
    run("distill", config, str(folder / "taken"), quiet=True)
    ours, theirs = (
        load_file(folder / name / "model/model.safetensors")
        for name in ("taken", "larger")
    )
    for name in theirs:
        if name.startswith("text_"):
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"teacher": "teacher,,larger"},
            "'teacher,,larger'; give a name, or different",
        ),
        (
            {"teacher": "teacher, "},
            "'teacher, '; give a name, or different ones joined",
        ),
        ({"teacher": "teacher, teacher"}, "'teacher, teacher'; give a name, or differ"),
        (
            {"teacher": BOTH, "teacher_scale": "7,6,5"},
            "'7,6,5', 3 of them, and the number of teachers is 2; give one for all, or",
        ),
        ({"teacher_scale": "7,6"}, "'7,6', 2 of them, and the number of teachers is 1"),
        ({"teacher": BOTH, "teacher_scale": "7,-6"}, "'7,-6'; give own, match_entropy"),
        ({"teacher": BOTH, "teacher_scale": "7,"}, "'7,'; give own, match_entropy"),
        ({"teacher_scale": "sharp"}, "teacher_scale is 'sharp'; give own, match_ent"),
        ({"teacher": "teacher,tiny-8"}, "the teacher 'tiny-8' has no weights"),
    ],
)
def test_what_is_no_list_of_teachers_or_scales_is_refused(folder, changes, said):
    with pytest.raises(UserError, match=said):
        losses(folder, "refused", **changes)

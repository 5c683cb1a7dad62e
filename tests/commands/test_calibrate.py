"""A teacher's scale is found once, stored with it, and taken from there."""

import json
import shutil

import numpy as np
import pytest

import kdjax
from kdjax.cli import main
from kdjax.config import load_config
from kdjax.errors import UserError

BATCH, ENTROPY = 8, 1.2
CONFIG = "--config=configs/calibrate/easy_vqa.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "nano-16", 3, BATCH
    kdjax.run("pretrain", config, str(folder / "teacher"), quiet=True)
    return folder / "teacher"


@pytest.fixture
def teacher(made, tmp_path):
    """A teacher's run that nothing is stored with, alone in its folder."""
    return shutil.copytree(made, tmp_path / "teacher")


def calibrate(teacher, name="calibration", **changes):
    config = load_config("configs/calibrate/easy_vqa.py")
    config.teacher, config.batch_size = str(teacher), BATCH
    config.teacher_entropy = ENTROPY
    config.update(changes)
    return kdjax.run("calibrate", config, str(teacher.parent / name), quiet=True)


def distil(teacher, name, **changes):
    config = load_config("configs/distill/easy_vqa.py")
    config.teacher, config.student = str(teacher), "nano-16"
    config.steps, config.batch_size, config.teacher_entropy = 2, BATCH, ENTROPY
    config.update(changes)
    return kdjax.run("distill", config, str(teacher.parent / name), quiet=True)


def stored(folder):
    return json.loads((folder / "calibration.json").read_text())


def test_the_command_stores_the_scale_with_the_teacher(teacher, capsys):
    options = {"teacher": teacher, "batch_size": BATCH, "teacher_entropy": ENTROPY}
    overrides = [f"--config.{key}={value}" for key, value in options.items()]
    workdir = teacher.parent / "calibration"
    assert main(["calibrate", CONFIG, f"--workdir={workdir}", *overrides]) == 0
    found = stored(teacher / "model")
    results = json.loads((workdir / "results.json").read_text())
    assert found == {
        "scale": results["calibrated_scale"],
        "entropy": ENTROPY,
        "batch_size": BATCH,
        "pairs": 64,
        "data": {"name": "easy_vqa"},
        "split": "validation",
    }
    assert results["calibrated_entropy"] == pytest.approx(ENTROPY, rel=1e-6)
    said = capsys.readouterr().out
    assert f"calibrated scale {found['scale']:.2f} with 1.200 nats" in said
    assert f"own scale {results['own_scale']:.2f} with " in said


def test_a_run_that_takes_it_is_the_run_that_finds_it_itself(teacher):
    calibrate(teacher)
    scales = [
        distil(teacher, scale, teacher_scale=scale)["calibrated_scale"]
        for scale in ("stored", "match_entropy")
    ]
    assert scales[0] == scales[1] == stored(teacher / "model")["scale"]
    tensors = [
        (teacher.parent / name / "model/model.safetensors").read_bytes()
        for name in ("stored", "match_entropy")
    ]
    assert tensors[0] == tensors[1]


def test_an_entropy_of_another_split_is_another_scale(teacher):
    validation = calibrate(teacher)["calibrated_scale"]
    config = load_config("configs/calibrate/easy_vqa.py")
    config.eval.split = "test"
    test = calibrate(teacher, "on-test", eval=config.eval)["calibrated_scale"]
    assert test == stored(teacher / "model")["scale"] != validation


def test_calibrating_again_overwrites_and_the_same_command_puts_it_back(teacher):
    first = calibrate(teacher)
    calibrate(teacher, "sharper", teacher_entropy=0.8)
    assert stored(teacher / "model")["entropy"] == 0.8
    assert calibrate(teacher) == first
    assert stored(teacher / "model")["entropy"] == ENTROPY


def test_a_run_does_not_go_on_with_another_scale(teacher):
    calibrate(teacher)
    distil(teacher, "student", teacher_scale="stored")
    file = teacher / "model/calibration.json"
    file.write_text(json.dumps(stored(teacher / "model") | {"scale": 3.5}))
    with pytest.raises(UserError, match=r"made_from.calibrated_scale was .* now 3.5"):
        distil(teacher, "student", teacher_scale="stored", steps=3)


def test_a_model_that_learns_on_loses_it_and_can_be_calibrated_again(teacher):
    before = calibrate(teacher)["calibrated_scale"]
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "nano-16", 4, BATCH
    kdjax.run("pretrain", config, str(teacher), quiet=True)
    assert not (teacher / "model/calibration.json").exists()
    after = calibrate(teacher)["calibrated_scale"]
    assert stored(teacher / "model")["scale"] == after != before


def test_an_export_takes_it_along_and_can_be_a_teacher(teacher):
    calibrate(teacher)
    out = teacher.parent / "out"
    ask = {"checkpoint": str(teacher)}
    assert "calibration.json" in kdjax.run("export", ask, str(out), quiet=True)["files"]
    assert stored(out) == stored(teacher / "model")
    distil(out, "of-export", teacher_scale="stored")
    calibrate(out, "of-out", teacher_entropy=0.8)
    assert stored(out)["entropy"] == 0.8
    (teacher / "model/calibration.json").unlink()
    assert "calibration.json" not in kdjax.run("export", ask, str(out), quiet=True)


def test_a_name_on_the_hub_is_refused_with_the_way(teacher):
    with pytest.raises(
        UserError, match=r"kdjax export --checkpoint=openai/clip --workdir=DIR, and"
    ):
        kdjax.run("calibrate", *named("openai/clip", teacher), quiet=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-8", "architecture without weights"),
        ("tiny-9", "no folder 'tiny-9', here or beside .* did you mean 'tiny-8'"),
        (
            "runs/no",
            "'runs/no' is no folder here, .*: check the spelling, or of a name",
        ),
        ("a,b", "teacher is 'a,b'; a calibration is of one: name one"),
    ],
)
def test_a_teacher_without_weights_is_refused(teacher, name, said):
    with pytest.raises(UserError, match=said):
        kdjax.run("calibrate", *named(name, teacher), quiet=True)
    assert not list(teacher.parent.rglob("calibration.json"))


def named(name, teacher):
    config = load_config("configs/calibrate/easy_vqa.py")
    config.teacher = name
    return config, str(teacher.parent / "calibration")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 1000}, "batches of 1000 held-out pairs and there are 400"),
        ({"teacher_entropy": 9.0}, "a row entropy of 9.0 nats; it can be between"),
        ({"teacher_entropy": 0.0}, "teacher_entropy is 0.0; give a number"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_and_nothing_stored(
    teacher, changes, said
):
    with pytest.raises(UserError, match=said):
        calibrate(teacher, **changes)
    assert not (teacher / "model/calibration.json").exists()


def test_a_run_needs_one_that_was_made_for_it(teacher):
    def refused(said, **changes):
        with pytest.raises(UserError, match=said):
            distil(teacher, "refused", teacher_scale="stored", **changes)
        assert not (teacher.parent / "refused").exists()

    refused(r"calibration.json is missing: run kdjax calibrate on the teacher")
    calibrate(teacher)
    refused(r"for an entropy of 1.2 nats .* teacher_entropy 1.0", teacher_entropy=1.0)
    refused(r"in batches of 8, .* batch_size 16", batch_size=16)
    file = teacher / "model/calibration.json"
    for scale in ("NaN", "-1", '"big"'):
        file.write_text(
            f'{{"scale": {scale}, "entropy": {ENTROPY}, "batch_size": {BATCH}}}'
        )
        refused(r"calibration.json holds the scale .*: run kdjax calibrate")
    for damaged in ("{", "[]", '{"scale": 3.0}'):
        file.write_text(damaged)
        refused(r"calibration.json holds no calibration: run kdjax calibrate")


def test_its_own_entropy_is_that_of_its_own_scale(teacher):
    own = calibrate(teacher)
    again = calibrate(teacher, "own", teacher_entropy=own["own_entropy"])
    np.testing.assert_allclose(again["calibrated_scale"], own["own_scale"], rtol=1e-5)

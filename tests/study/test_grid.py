"""From a config to runs."""

import itertools

import pytest
from ml_collections import ConfigDict

from kdjax.commands.reporter import Reporter
from kdjax.commands.schema import check_config
from kdjax.config import load_config, to_plain
from kdjax.errors import UserError
from kdjax.study.execute import run_study
from kdjax.study.grid import plan


@pytest.fixture
def config():
    return load_config("configs/study/quickstart.py")


def test_a_plan_has_every_cell_with_every_seed(config):
    entries = plan(config)
    kinds = [entry.kind for entry in entries]
    assert kinds.count("teacher") == 3
    assert kinds.count("baseline") == 2
    assert kinds.count("student") == 3 * 2 * 2
    assert kinds[-1] == "control"
    cells = {(e.teacher, e.objectives, e.seed) for e in entries if e.kind == "student"}
    assert len(cells) == 12


def test_students_name_their_teachers_run(config):
    entries = plan(config)
    teachers = {e.name: e.clip.name for e in entries if e.kind == "teacher"}
    for entry in entries:
        if entry.kind == "student":
            assert entry.clip.config.teacher == teachers[entry.teacher]
            assert entry.vqa.config.tower == entry.clip.name


def test_the_baseline_makes_as_many_steps_on_as_many_images(config):
    for entry in plan(config):
        if entry.kind in ("baseline", "student"):
            assert entry.clip.config.steps == config.distill.steps
            assert entry.clip.config.batch_size == config.distill.batch_size


def test_a_stored_scale_of_a_teacher_that_is_not_there_yet_is_refused(config, tmp_path):
    with config.distill.ignore_type():
        config.distill.teacher_scale = "stored"
    with pytest.raises(UserError, match=r"nothing calibrates the teacher pretrain-"):
        run_study(config, tmp_path / "study", Reporter(quiet=True), "")
    assert not any(tmp_path.iterdir())
    for entry in plan(config)[:3]:
        (tmp_path / "cells" / entry.clip.name / "model").mkdir(parents=True)
        weights = "model/model.safetensors"
        for name in ("environment.json", "results.json", "model/config.json", weights):
            (tmp_path / "cells" / entry.clip.name / name).write_text("{}")
    with pytest.raises(UserError, match=r"calibration.json is missing: run kdjax cal"):
        run_study(config, tmp_path / "study", Reporter(quiet=True), "")
    assert not (tmp_path / "study").exists()


def test_equal_runs_have_one_name_and_others_another(config):
    runs = [e.clip for e in plan(config) if e.clip]
    names = [run.name for run in runs]
    for one, other in itertools.combinations(runs, 2):
        same = to_plain(one.config) == to_plain(other.config)
        assert (one.name == other.name) == same
    again = [
        e.clip.name for e in plan(load_config("configs/study/quickstart.py")) if e.clip
    ]
    assert names == again
    config.pretrain.log_every = 7
    watched = [e.clip.name for e in plan(config) if e.kind == "teacher"]
    assert watched == names[:3]


def test_only_the_blanked_control_is_blank(config):
    blank = [entry.name for entry in plan(config) if entry.vqa.config.data.blank]
    assert blank == ["blanked"]


def test_no_teacher_has_a_seed_of_the_students(config):
    """It would hand its own starting point to the student of that seed."""
    config.pretrain.seed = 1
    with pytest.raises(UserError, match=r"has the seed 1, .* students' seeds"):
        plan(config)


@pytest.mark.parametrize("key", ["data.name", "eval.split"])
def test_teachers_and_students_answer_the_same_questions(config, key):
    config.update_from_flattened_dict({f"vqa.{key}": "scenes"})
    with pytest.raises(UserError, match=r"vqa\.\w+ and vqa_teacher\.\w+ differ"):
        plan(config)


def test_a_preset_can_be_named(config):
    config.objectives = ConfigDict({"released": "clip_kd_legacy"})
    students = [e for e in plan(config) if e.kind == "student"]
    assert {e.clip.config.objectives for e in students} == {"clip_kd_legacy"}


def test_students_start_as_the_config_of_distill_says(config):
    config.distill.inherit, config.distill.text_tower = "magnitude", "teacher"
    config.distill.optimizer.rates.text = 0.0
    for entry in plan(config):
        if entry.kind == "student":
            assert entry.clip.config.inherit == "magnitude"
            assert entry.clip.config.text_tower == "teacher"
            assert entry.clip.config.optimizer.rates.text == 0
            check_config("distill", entry.clip.config)
        elif entry.clip:
            assert entry.clip.config.optimizer.rates.text == 1


def test_a_study_of_nothing_is_refused(config):
    config.seeds = ()
    with pytest.raises(UserError, match="at least one"):
        plan(config)


def test_a_teachers_unknown_setting_is_refused(config):
    config.teachers.weak = ConfigDict({"stesp": 3})
    with pytest.raises(UserError, match="'stesp'"):
        plan(config)


@pytest.mark.parametrize(
    ("key", "value"), [("seeds", (0, 0)), ("students", ("a",) * 2)]
)
def test_what_would_count_twice_is_refused(config, key, value):
    config[key] = value
    with pytest.raises(UserError, match=f"{key} are .*; give each of them once"):
        plan(config)

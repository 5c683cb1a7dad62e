"""Configs: where they are found, what names a run, and what keeps one from going on."""

import json

import pytest

from kdjax.config import (
    config_hash,
    differences,
    find_config,
    load_config,
    to_plain,
)
from kdjax.errors import UserError


def test_a_file_that_is_here_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "configs" / "pretrain" / "easy_vqa.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    assert find_config("configs/pretrain/easy_vqa.py").resolve() == mine


def test_files_of_the_package_are_found_with_and_without_the_folder(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/study/smoke.py") == find_config("study/smoke.py")


def test_an_argument_reaches_get_config(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(size):\n"
        "    return ConfigDict({'size': int(size)})\n"
    )
    assert load_config(f"{file}:7").size == 7


def test_a_config_that_fails_is_one_sentence(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(UserError, match="division by zero") as error:
        load_config(str(file))
    assert "\n" not in str(error.value)


def test_overrides_keep_their_types():
    config = load_config("configs/pretrain/easy_vqa.py", ["--config.steps=7"])
    assert config.steps == 7
    with pytest.raises(UserError, match="steps"):
        load_config("configs/pretrain/easy_vqa.py", ["--config.steps=seven"])


def test_a_preset_replaces_the_objectives_of_a_file():
    said = ["--config.objectives=clip_kd", "--config.steps=7"]
    config = load_config("configs/distill/easy_vqa.py", said)
    assert (config.objectives, config.steps) == ("clip_kd", 7)
    with pytest.raises(UserError, match="no mapping in which to set objectives"):
        load_config("configs/eval/easy_vqa.py", ["--config.objectives=clip_kd"])


def test_a_set_that_a_config_does_not_have_is_refused_with_those_it_has():
    said = "no set of objectives 'none'; give one of mixed, hinton, dkd"
    with pytest.raises(UserError, match=said):
        load_config("configs/vqa/easy_vqa_distilled.py:none")


def test_a_schedule_of_a_file_can_be_changed_key_by_key():
    said = ["--config.objectives.crd.weight.until=0.5"]
    config = load_config("configs/distill/early_stop.py", said)
    assert config.objectives.crd.weight.until == 0.5


def test_objectives_and_their_options_can_be_given_that_a_file_does_not_have():
    said = [
        "--config.objectives.crd.teacher_scale=50",
        "--config.objectives.gd.form=paper",
    ]
    config = load_config("configs/distill/easy_vqa.py", said)
    assert config.objectives.crd.to_dict() == {"weight": 1.0, "teacher_scale": 50}
    assert config.objectives.gd.to_dict() == {"form": "paper"}
    said = ["--config.objectives={'clip': {}, 'fd': {'weight': 2}}"]
    config = load_config("configs/distill/easy_vqa.py", said)
    assert config.objectives.to_dict() == {"clip": {}, "fd": {"weight": 2}}
    said = ["--config.distill.objectives.clip.weight=0.5"]
    config = load_config("configs/study/quickstart.py", said)
    assert config.distill.objectives.clip.weight == 0.5


def test_rates_can_be_given_of_patterns_that_a_file_does_not_have():
    said = [
        "--config.optimizer.rates.text=0",
        "--config.optimizer.rates.vision/*/bias=0.5",
    ]
    config = load_config("configs/distill/easy_vqa.py", said)
    expected = {"vision": 1.0, "text": 0, "vision/*/bias": 0.5}
    assert config.optimizer.rates.to_dict() == expected
    said = ["--config.distill.optimizer.rates={'*': 0.1}"]
    config = load_config("configs/study/quickstart.py", said)
    assert config.distill.optimizer.rates.to_dict() == {"*": 0.1}
    with pytest.raises(UserError, match=r"rates is {'a.b': 0}; no key of a config"):
        load_config(
            "configs/distill/easy_vqa.py", ["--config.optimizer.rates={'a.b': 0}"]
        )


@pytest.mark.parametrize(
    "said",
    [
        ["--config.objectives=clip_kd", "--config.objectives.fd.weight=2"],
        ["--config.nothing.objectives.fd.weight=2"],
    ],
)
def test_what_is_no_mapping_takes_no_options(said):
    with pytest.raises(UserError, match="no mapping in which to set"):
        load_config("configs/distill/easy_vqa.py", said)


def test_the_hash_names_what_is_computed_and_not_how_it_is_watched():
    one = load_config("configs/pretrain/easy_vqa.py")
    two = load_config("configs/pretrain/easy_vqa.py", ["--config.log_every=1"])
    three = load_config("configs/pretrain/easy_vqa.py", ["--config.seed=1"])
    assert config_hash("pretrain", one) == config_hash("pretrain", two)
    assert config_hash("pretrain", one) != config_hash("pretrain", three)
    assert config_hash("pretrain", one) != config_hash("distill", one)


def test_the_hash_tells_what_a_run_is_made_from_and_can_be_had_of_its_json():
    config = load_config("configs/distill/easy_vqa.py")
    one, other = ({"teacher": {"run": run, "steps": 2}} for run in ("0a", "0b"))
    hashes = [config_hash("distill", config, x) for x in (None, one, other)]
    assert len({*hashes}) == 3
    assert config_hash("distill", config, {}) == hashes[0]
    read = json.loads(json.dumps(to_plain(config)))
    assert [config_hash("distill", read, x) for x in (None, one, other)] == hashes


def test_a_run_may_be_watched_otherwise_and_go_on_for_longer():
    old = {"steps": 10, "log_every": 5, "optimizer": {"b2": 0.9}}
    assert differences(old, {**old, "steps": 20, "log_every": 1}) == []
    assert differences(old, {**old, "steps": 5}) == ["steps was 10 and is now 5"]
    changed = {**old, "optimizer": {"b2": 0.95}}
    assert differences(old, changed) == ["optimizer.b2 was 0.9 and is now 0.95"]


def test_what_decides_which_step_is_the_best_is_computed():
    """How often a run saves may change, and which steps are scored only without one."""
    config = load_config(
        "configs/pretrain/easy_vqa.py", ["--config.eval.every_steps=5"]
    )
    old, hashed = to_plain(config), config_hash("distill", config)
    config.checkpoint.every_steps, config.checkpoint.keep = 7, 9
    config.checkpoint.every_minutes, config.eval.every_steps = 3.0, 10
    assert differences(old, to_plain(config)) == []
    assert config_hash("distill", config) == hashed
    config.checkpoint.best = "validation/zero_shot_accuracy"
    chosen, hashed = to_plain(config), config_hash("distill", config)
    config.eval.every_steps, config.checkpoint.every_steps = 5, 8
    said = ["eval.every_steps was 10 and is now 5"]
    assert differences(chosen, to_plain(config)) == said
    assert config_hash("distill", config) != hashed

"""What a config must hold, said before anything is made."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from kdjax.commands.schema import SCHEMAS, check_config
from kdjax.config import load_config
from kdjax.errors import UserError

# Of data that no reader reads yet: it is there to plan, and test_plan.py looks at it.
TO_PLAN = Path("configs/distill/clip_kd_vitl14_vitt16.py")
CONFIGS = sorted({*Path("configs").glob("*/*.py")} - {TO_PLAN})


def config_of(command):
    if command == "export":
        return ConfigDict({"checkpoint": "runs/mine", "format": "safetensors"})
    names = {"study": "quickstart", "chain": "assistant"}
    return load_config(f"configs/{command}/{names.get(command, 'easy_vqa')}.py")


@pytest.mark.parametrize("file", CONFIGS, ids=str)
def test_configs_of_the_package_pass(file):
    check_config(file.parent.name, load_config(str(file)))


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_config_of_another_command_is_refused(command):
    for other in SCHEMAS:
        if other != command:
            with pytest.raises(UserError, match=f"a config of {command}"):
                check_config(command, config_of(other))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", -3, "steps is -3; give a whole number of at least 0"),
        ("steps", 1.5, "steps is 1.5"),
        ("steps", 2**31, "give a whole number of at least 0 and below 2147483648"),
        ("optimizer.learning_rate", 1e300, r"of at least 0 and below 1e\+38"),
        ("steps", True, "steps is True"),
        ("batch_size", 0, "batch_size is 0"),
        ("log_every", 0, "log_every is 0"),
        ("checkpoint.every_steps", 0, "checkpoint.every_steps is 0"),
        ("checkpoint.keep", 0, "checkpoint.keep is 0"),
        ("checkpoint.every_minutes", -1.0, "every_minutes is -1.0; give a number of"),
        ("checkpoint.best", "loss", "give validation/zero_shot_accuracy, which eval"),
        ("checkpoint.best", "validation/zero_shot_accuracy", "set eval.every_steps"),
        ("checkpoint.best_mode", "most", "best_mode is 'most'; give max or min"),
        ("parts", "image", "parts is 'image'; give all or vision or text"),
        ("optimizer.learning_rate", -1.0, "optimizer.learning_rate is -1.0"),
        ("optimizer.learning_rate", float("nan"), "learning_rate is nan"),
        ("optimizer.warmup", 1.1, "warmup is 1.1; give a number from 0 to 1"),
        (
            "optimizer.name",
            "adam",
            "is 'adam'; give adamw or adafactor or lion or muon",
        ),
        ("optimizer.schedule", "step", "give cosine or linear or rsqrt or constant"),
        ("optimizer.b1", 1.0, "optimizer.b1 is 1.0; give a number from 0 to 0.999999"),
        ("optimizer.ema", 1.0, "optimizer.ema is 1.0"),
        (
            "optimizer.layer_decay",
            0.0,
            "layer_decay is 0.0; give a number from 0.001 to",
        ),
        ("optimizer.rates", 0.5, "rates is 0.5; give a mapping of patterns of param"),
        ("optimizer.rates", {"text": "none"}, "to numbers of at least 0"),
        ("optimizer.learning_rat", 1, "did you mean 'learning_rate'"),
        ("seed", 2**32, "from 0 to 4294967295"),
        ("eval.split", "tset", "no split 'tset'"),
        ("eval.every_steps", -1, "eval.every_steps is -1"),
        ("eval.evaluators", ("vqa",), r"give a tuple of some of: zero_shot"),
        ("max_nonfinite", 0, "max_nonfinite is 0"),
        ("profile", (3,), r"profile is \(3,\); give a first and a last step"),
        ("profile", (3, 2), r"profile is \(3, 2\)"),
        ("profile", (0, 2), r"profile is \(0, 2\)"),
        ("profile", (10**6, 10**7), r"and the run has \d+ steps"),
        ("profile", (1, 2.5), r"profile is \(1, 2.5\)"),
        ("dtype", "float8", "dtype is 'float8'; give auto or float32 or bfloat16"),
        ("param_dtype", "float16", "param_dtype is 'float16'; give float32 or bfl"),
        ("remat.text", "some", "remat.text is 'some'; give none or dots or full"),
        ("remat.image", "dots", "has no key 'remat.image'"),
        ("attention", "flash", "attention is 'flash'; give xla or cudnn or splash"),
        ("batch_size", 4000, "more than the 3600 records of easy_vqa 'train'"),
        ("objectives.clip", {"wieght": 1.0}, "did you mean 'weight'"),
        ("optimizer", 3, "optimizer is 3"),
        ("nothing_like_it", 3, "there are attention"),
    ],
)
def test_what_cannot_be_is_refused(key, value, said):
    config = config_of("pretrain")
    config.unlock()
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part]
    with node.ignore_type():
        node[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(UserError, match=said):
        check_config("pretrain", config)


def test_a_bucket_gets_no_trace():
    config, bucket = config_of("pretrain"), "gs://bucket/run"
    check_config("pretrain", config, bucket)
    config.profile = (1, 2)
    check_config("pretrain", config, "runs/mine")
    with pytest.raises(UserError, match=f"to {bucket}: give a --workdir that is a"):
        check_config("pretrain", config, bucket)


def test_the_zoos_caption_length_is_not_that_of_the_teachers_text_tower():
    config = config_of("distill")
    config.caption_length = 77
    with pytest.raises(
        UserError, match="caption_length is 77; the model reads 1 to 40"
    ):
        check_config("distill", config)
    config.text_tower = "teacher"
    check_config("distill", config)


SMALL = {"name": "scenes", "size": 8, "eval_size": 32}


def test_a_calibration_needs_a_batch_of_held_out_pairs_alone():
    config = config_of("calibrate")
    config.data = ConfigDict(SMALL)
    check_config("calibrate", config)
    config.batch_size = 33
    with pytest.raises(UserError, match=r"33 held-out pairs .* 32 in scenes 'valid"):
        check_config("calibrate", config)


def test_so_does_a_run_that_calibrates_its_teachers_itself():
    config = config_of("distill")
    config.data = ConfigDict({**SMALL, "size": 64})
    check_config("distill", config)
    config.batch_size = 64
    with pytest.raises(UserError, match=r"64 held-out pairs .* 32 in scenes 'valid"):
        check_config("distill", config)
    config.teacher_scale = "own"
    check_config("distill", config)


def test_heads_that_do_not_share_the_width_are_refused():
    config = config_of("vqa")
    config.head.num_heads = 3
    with pytest.raises(UserError, match="num_heads 3 does not divide the width 32"):
        check_config("vqa", config)


def test_a_missing_key_is_named():
    config = config_of("vqa")
    config.unlock()
    del config.head.width
    with pytest.raises(UserError, match=r"a config of vqa needs the key 'head.width'"):
        check_config("vqa", config)

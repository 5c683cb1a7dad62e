"""What a config names becomes: a model, a dtype, a teacher, a refusal."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from etils import epath
from ml_collections import ConfigDict
from tokenizers import processors
from weights.golden_models import GOLDEN

from kdjax.commands.common import say_unsplit
from kdjax.commands.compute import compute_of, compute_of_teacher
from kdjax.commands.models import fit_vocabulary, open_model
from kdjax.commands.names import run_of
from kdjax.commands.reporter import Reporter
from kdjax.commands.teacher import Teacher
from kdjax.commands.workdir import Workdir
from kdjax.config import load_config
from kdjax.data.tokenizer import Tokenizer, train_tokenizer
from kdjax.errors import UserError
from kdjax.models import architecture


def compute(reporter=None, **changes):
    config = ConfigDict({"dtype": "auto", "attention": "xla", **changes})
    return compute_of(config, reporter or Reporter(quiet=True))


def test_auto_is_float32_on_a_cpu():
    assert compute().dtype == "float32"
    assert compute(dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize(("kernel", "needs"), [("cudnn", "GPU"), ("splash", "TPU")])
def test_a_kernel_that_is_not_here_falls_back_with_one_line(kernel, needs, capsys):
    assert compute(Reporter(), attention=kernel).attention == "xla"
    said = capsys.readouterr().err
    assert said == f"attention {kernel} needs a {needs} and this is a cpu: using xla\n"


def test_a_frozen_teacher_is_held_in_what_it_computes_in_by_rules_of_its_own():
    remat = {"vision": "dots", "text": "full"}
    own = compute(param_dtype="float32", dtype="bfloat16", remat=remat)
    config = own.of(architecture("nano-16"))
    assert (config.dtype, config.param_dtype) == ("bfloat16", "float32")
    assert (config.vision.remat, config.text.remat) == ("dots", "full")
    for asked, dtype in (("auto", "float32"), ("bfloat16", "bfloat16")):
        said = {"teacher_dtype": asked, "teacher_sharding": "fsdp"}
        frozen = compute_of_teacher(ConfigDict(said), own)
        config = frozen.of(architecture("nano-16"))
        assert (config.dtype, config.param_dtype) == (dtype, dtype)
        assert (config.vision.remat, config.text.remat) == ("none", "none")
        assert frozen.over == ("fsdp",)


def test_what_is_whole_is_said_in_one_line_or_not_at_all(capsys):
    say_unsplit(Reporter(), "distil", ())
    say_unsplit(Reporter(), "distil", ("heads 3 by mesh.tensor 2", "mlp 5 by x 2"))
    assert capsys.readouterr().err == (
        "distil: whole on every device, for it does not divide: "
        "heads 3 by mesh.tensor 2, mlp 5 by x 2\n"
    )


def test_an_architecture_has_no_weights():
    model = open_model("tiny-16", epath.Path("runs/mine"), compute())
    assert model.params is None
    assert model.tokenizer is None


def test_a_name_that_is_nothing_is_refused():
    with pytest.raises(UserError, match="did you mean 'tiny-8'"):
        open_model("tiny-7", epath.Path("runs/mine"), compute())


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("distill", "teacher_scale", "-1", "teacher_scale is '-1'"),
        ("distill", "teacher_scale", "warm", "teacher_scale is 'warm'"),
        ("distill", "teacher_outputs", "cached", "teacher_outputs is 'cached'"),
        ("distill", "teacher", "tiny-8", "has no weights"),
        ("pretrain", "caption_length", 99, "reads 1 to 40 tokens"),
        ("pretrain", "batch_size", 0, "batch_size"),
        ("vqa", "tower_outputs", "cached", "tower_outputs is 'cached'"),
        ("vqa", "tower", "tiny-7", "did you mean 'tiny-8'"),
    ],
)
def test_values_that_cannot_be_are_refused(file, key, value, said, tmp_path):
    from kdjax.cli import run

    config = load_config(f"configs/{file}/easy_vqa.py")
    config[key] = value
    if file == "distill" and key == "teacher_scale":
        config.teacher = pretrained(tmp_path)
    with pytest.raises(UserError, match=said):
        run(file, config, str(tmp_path / "run"), quiet=True)


# As users do, whose annotations nobody checks for them.
WRONG = """
import sys
from functools import partial
from pathlib import Path
import kdjax
from ml_collections import ConfigDict
from kdjax.data.processor import Processor
from kdjax.errors import UserError
example, model = "configs/pretrain/easy_vqa.py", sys.argv[1]
texts = partial(Processor.texts, None)
for ask in (
    lambda: kdjax.run("pretrain", None, "run"),
    lambda: kdjax.run("pretrain", Path("none.py"), "run"),
    lambda: kdjax.run("pretrain", example, None),
    lambda: kdjax.run("pretrain", example, ""),
    lambda: kdjax.run("pretrain", example, "run", "--config.seed=1"),
    lambda: kdjax.run("pretrain", example, "run", [5]),
    lambda: kdjax.run("pretrain", ConfigDict(), "run", ["--config.seed=1"]),
    lambda: kdjax.run("pretrain", {"steps": 3}, "run"),
    lambda: kdjax.run("export", None, "run"),
    lambda: kdjax.run("export", {"checkpoint": model}, "run", ["--config.format=a"]),
    lambda: kdjax.load_clip(None),
    lambda: kdjax.load_vqa(""),
    lambda: kdjax.load_processor(5),
    lambda: texts(None),
    lambda: texts(["a cat", 3]),
):
    try:
        ask()
    except UserError as error:
        print(error)
"""
SAID = [
    "the config is None; give a ConfigDict, or FILE[:argument]",
    "none.py",
    "the workdir is None; give the path of a folder",
    "the workdir is ''; give the path of a folder",
    "the overrides are '--config.seed=1'; give a list such as",
    "the overrides are [5]; give a list such as",
    "with a config that is a file",
    "the config is {'steps': 3}; give a ConfigDict, or FILE[:argument]",
    "the config is None; give a mapping with the checkpoint",
    "with a config that is a file",
    "a model is named by None; give a directory, the workdir",
    "a model is named by ''; give a directory, the workdir",
    "a model is named by 5; give a directory, the workdir",
    "the texts are None; give one, or a list of them",
    "the texts are ['a cat', 3]; give one, or a list of them",
]


def test_what_cannot_be_asked_for_is_said(tmp_path):
    command = [sys.executable, "-c", WRONG, str(GOLDEN / "open_clip/clipa")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = done.stdout.splitlines()
    assert len(found) == len(SAID)
    assert all(part in line for part, line in zip(SAID, found, strict=True))
    assert not list(tmp_path.iterdir())


def pretrained(folder):
    from kdjax.cli import run

    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "tiny-16", 2, 8
    results = run("pretrain", config, str(folder / "teacher"), quiet=True)
    assert np.isfinite(results["zero_shot_accuracy"])
    return "teacher"


def test_two_processes_do_not_work_in_one_workdir(tmp_path):
    config = load_config("configs/pretrain/easy_vqa.py")
    here, again = (Workdir(tmp_path / "run", "pretrain", config) for _ in range(2))
    taken = pytest.raises(UserError, match="another process works in the workdir")
    with here.begun(), taken, again.begun():
        pass
    with again.begun():
        pass


def test_a_run_that_made_nothing_yet_may_be_corrected(tmp_path):
    config = load_config("configs/pretrain/easy_vqa.py")
    workdir = Workdir(tmp_path / "run", "pretrain", config)
    with workdir.begun():
        pass
    config.model = "nano-16"
    workdir = Workdir(tmp_path / "run", "pretrain", config)
    with workdir.begun():
        workdir.write_json("results.json", {"steps": 300})
    config.model = "tiny-16"
    with pytest.raises(UserError, match="model was 'nano-16' and is now 'tiny-16'"):
        Workdir(tmp_path / "run", "pretrain", config)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        Workdir(tmp_path / "file", "pretrain", config)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_run_keeps_what_it_was_made_with(tmp_path):
    from kdjax.cli import run

    name = pretrained(tmp_path)
    environment = tmp_path / name / "environment.json"
    environment.write_text('{"git_revision": "of then"}')
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "tiny-16", 2, 8
    run("pretrain", config, str(tmp_path / name), quiet=True)
    assert environment.read_text() == '{"git_revision": "of then"}'


def test_an_architectures_name_is_never_a_run(tmp_path, capsys):
    from kdjax.cli import run

    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "nano-16", 1, 8
    for _ in range(2):
        run("pretrain", config, str(tmp_path / "nano-16"))
    assert "nano-16 is finished already" in capsys.readouterr().err
    workdir = epath.Path(tmp_path / "other")
    assert open_model("nano-16", workdir, compute()).params is None
    path = str(tmp_path / "nano-16")
    assert run_of("nano-16", workdir) is None
    assert run_of("nano-16/model", workdir) == run_of(path, workdir) == epath.Path(path)


def test_a_score_is_of_the_model_as_it_was(tmp_path):
    from kdjax.cli import run

    name = pretrained(tmp_path)
    score = load_config("configs/eval/easy_vqa.py")
    score.model = name
    run("eval", score, str(tmp_path / "score"), quiet=True)
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "tiny-16", 3, 8
    run("pretrain", config, str(tmp_path / name), quiet=True)
    with pytest.raises(UserError, match=r"made_from.model.steps was 2 and is now 3"):
        run("eval", score, str(tmp_path / "score"), quiet=True)


def test_a_damaged_file_of_a_workdir_is_named(tmp_path):
    from kdjax.cli import run

    name = pretrained(tmp_path)
    (tmp_path / name / "results.json").write_text('{"steps": 2')
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "tiny-16", 2, 8
    with pytest.raises(UserError, match=r"results.json cannot be read .* remove it"):
        run("pretrain", config, str(tmp_path / name), quiet=True)


def test_a_tokenizer_that_does_not_end_texts_is_refused():
    tokenizer = train_tokenizer(["a red circle"])
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 2)]
    )
    endless = Tokenizer(backend, tokenizer.special_tokens)
    model = open_model("tiny-16", epath.Path("runs/mine"), compute())
    assert fit_vocabulary(model, tokenizer).text.eos_id == 3
    with pytest.raises(UserError, match="does not put its eos_token after a text"):
        fit_vocabulary(model, endless)
    teacher = replace(model, params={}, tokenizer=endless)
    with pytest.raises(UserError, match="does not put its eos_token after a text"):
        Teacher("mine", teacher)

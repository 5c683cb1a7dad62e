"""Question answering as a command: what towers see, and what teachers answer."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from kdjax.cli import run
from kdjax.commands.schema import check_config
from kdjax.config import load_config
from kdjax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "nano-16", 4, 8
    config.optimizer.ema = 0.5
    run("pretrain", config, str(folder / "tower"), quiet=True)
    return folder


def config_of(file="configs/vqa/easy_vqa.py", **changes):
    config = load_config(file)
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    config.tower = "tower"
    config.update_from_flattened_dict(changes)
    return config


def metrics(folder, name, config):
    """Every step's metrics of a run."""
    results = run("vqa", config, str(folder / name), quiet=True)
    assert 0 <= results["vqa_accuracy"] <= 100
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(folder, name, **changes):
    config = config_of(**changes)
    return np.array([step["loss"] for step in metrics(folder, name, config)])


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


def test_tokens_that_are_too_much_for_memory_are_refused(folder, monkeypatch):
    monkeypatch.setattr("kdjax.commands.teacher.MOST_HELD_GIB", 0)
    monkeypatch.delattr("kdjax.commands.vqa.image_tokens")
    said = r"to hold tokens of 3600 images .* are held: set tower_outputs to computed"
    with pytest.raises(UserError, match=said):
        losses(folder, "too-much")


# A tower that learns, and what is saved is an average.
LEARNING = {"optimizer.rates.vision": 1.0, "optimizer.ema": 0.5}


def test_a_frozen_tower_stays_and_another_learns(folder):
    losses(folder, "frozen")
    losses(folder, "learning", **LEARNING)
    losses(folder, "frozen-computed", tower_outputs="computed")
    frozen, learning, computed = (
        tower_of(folder, name) for name in ("frozen", "learning", "frozen-computed")
    )
    assert frozen.keys() == learning.keys()
    for name in frozen:
        np.testing.assert_array_equal(frozen[name], computed[name])
    assert any((frozen[name] != learning[name]).any() for name in frozen)


@pytest.mark.parametrize(
    ("command", "file"),
    [("pretrain", "model.safetensors"), ("vqa", "vqa.safetensors")],
)
def test_what_is_saved_as_the_model_is_the_average(folder, command, file):
    """By the biases of norms, whose names and shapes all layouts share."""
    if command == "vqa":
        losses(folder, "averaged", **LEARNING)
    run_folder = folder / ("tower" if command == "pretrain" else "averaged")
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore((run_folder / "checkpoints/4/state").resolve())
    saved = load_file(run_folder / "model" / file).values()

    def is_saved(params):
        bias = np.asarray(params["model"]["vision"]["post_norm"]["bias"])
        return any(x.shape == bias.shape and (x == bias).all() for x in saved)

    assert is_saved(state["ema"])
    assert not is_saved(state["params"])


def test_tokens_of_a_tower_that_learns_are_not_held(folder, capsys):
    config = config_of(**LEARNING)
    config.steps = 1
    run("vqa", config, str(folder / "said"))
    assert "tower_outputs held needs a frozen tower" in capsys.readouterr().err


def test_rates_of_what_is_not_there_are_refused(folder):
    config = config_of()
    config.optimizer.rates = ConfigDict({"visoin": 0.0})
    with pytest.raises(UserError, match=r"rates has 'visoin'.* nearest are vision"):
        run("vqa", config, str(folder / "refused"))


@pytest.fixture(scope="module")
def teacher(folder):
    """A run whose tower, head and questions are of other sizes than a student's."""
    sizes = {"question_length": 14, "head.width": 16}
    metrics(folder, "teacher", config_of(tower="tiny-16", seed=9, **sizes))
    return "teacher"


def taught(teacher, objectives="mixed", **changes):
    file = f"configs/vqa/easy_vqa_distilled.py:{objectives}"
    return config_of(file, teacher=teacher, **changes)


@pytest.mark.parametrize("blank", [False, True])
def test_a_teacher_answers_the_same_in_every_step_and_held(folder, teacher, blank):
    held, computed = (
        metrics(
            folder,
            f"taught-{outputs}-{blank}",
            taught(teacher, tower_outputs=outputs, **{"data.blank": blank}),
        )
        for outputs in ("held", "computed")
    )
    for one, other in zip(held, computed, strict=True):
        assert one["hinton"] > 0
        assert one["loss"] == pytest.approx((one["bce"] + one["hinton"]) / 2, rel=1e-5)
        for name in ("bce", "hinton"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_a_tower_that_learns_has_a_teacher_too(folder, teacher):
    held, computed = (
        metrics(
            folder,
            f"taught-learning-{outputs}",
            taught(
                teacher,
                "dkd",
                tower_outputs=outputs,
                **{"optimizer.rates.vision": 1.0},
            ),
        )
        for outputs in ("held", "computed")
    )
    for one, other in zip(held, computed, strict=True):
        assert one["dkd"] == pytest.approx(other["dkd"], rel=1e-4)
    assert held[0]["dkd"] != held[-1]["dkd"]


def rewritten(folder, teacher, name, answers):
    """A copy of a run that knows these answers, in this order; new ones at random."""
    shutil.copytree(folder / teacher, folder / name)
    model = folder / name / "model"
    saved = json.loads((model / "vqa.json").read_text())
    tensors = load_file(model / "vqa.safetensors")
    old = saved["answers"]
    new = [answer for answer in answers if answer not in old]
    place = {answer: at for at, answer in enumerate([*old, *new])}
    for leaf in ("head/kernel", "head/bias"):
        rng = np.random.default_rng(0)
        shape = (*tensors[leaf].shape[:-1], len(new))
        drawn = rng.normal(size=shape).astype(np.float32)
        both = np.concatenate([tensors[leaf], drawn], axis=-1)
        # Contiguous, for the file is written as memory lies.
        tensors[leaf] = np.take(both, [place[answer] for answer in answers], axis=-1)
    save_file(tensors, model / "vqa.safetensors")
    saved["answers"] = list(answers)
    saved["model"]["num_answers"] = len(answers)
    (model / "vqa.json").write_text(json.dumps(saved))
    return name


def test_answers_are_told_apart_by_name(folder, teacher):
    """A teacher that has them in another order, and more of them, says the same."""
    answers = json.loads((folder / teacher / "model/vqa.json").read_text())["answers"]
    other = rewritten(folder, teacher, "shuffled", ["purple", *answers[::-1]])
    one, two = (
        metrics(folder, f"taught-by-{name}", taught(name)) for name in (teacher, other)
    )
    assert [x["hinton"] for x in one] == pytest.approx([x["hinton"] for x in two])
    fewer = rewritten(folder, teacher, "fewer", answers[2:])
    with pytest.raises(UserError, match=r"does not know 2 of .* 13 answers"):
        run("vqa", taught(fewer), str(folder / "refused"), quiet=True)


@pytest.mark.parametrize("name", ["tower", "tiny-8", "nothing"])
def test_a_teacher_that_answers_no_questions_is_refused(folder, name):
    with pytest.raises(UserError, match=f"teacher '{name}' is no finished run of vqa"):
        run("vqa", taught(name), str(folder / "refused"), quiet=True)


def test_a_run_that_goes_on_for_longer_answers_when_it_has_ended(folder, teacher):
    """As after a kill between its newest checkpoint and its new results."""
    results = json.loads((folder / teacher / "results.json").read_text())
    shutil.copytree(folder / teacher, folder / "longer")
    (folder / "longer/results.json").write_text(json.dumps(results | {"steps": 3}))
    score = load_config("configs/eval/easy_vqa.py")
    score.model = "longer"
    for command, config in (("eval", score), ("vqa", taught("longer"))):
        with pytest.raises(
            UserError, match=r"is under way, at step 4, .* ends: let it"
        ):
            run(command, config, str(folder / f"{command}-of-longer"), quiet=True)


def test_a_taught_run_knows_its_teacher_and_is_scored_like_any_other(folder, teacher):
    config = taught(teacher, "hinton")
    metrics(folder, "taught-hinton", config)
    about = json.loads((folder / "taught-hinton/config.json").read_text())
    results = json.loads((folder / teacher / "results.json").read_text())
    assert about["made_from"]["teacher"] == {"run": results["run"], "steps": 4}
    score = load_config("configs/eval/easy_vqa.py")
    score.model = "taught-hinton"
    scored = run("eval", score, str(folder / "score"), quiet=True)
    own = json.loads((folder / "taught-hinton/results.json").read_text())
    assert scored["vqa_accuracy"] == own["vqa_accuracy"]


@pytest.mark.parametrize(
    ("objectives", "teacher", "said"),
    [
        ({"bce": {}, "crd": {}}, "", "crd is of pairs and this run has classes"),
        ({"bce": {}, "dkd": {}}, "", "dkd needs a teacher: name a finished run of vqa"),
        ({"bce": {}}, "teacher", "no objective learns from it"),
        ({"hintn": {}}, "teacher", "did you mean 'hinton'"),
    ],
)
def test_objectives_that_cannot_be_are_refused(objectives, teacher, said):
    config = config_of(teacher=teacher)
    config.objectives = ConfigDict(objectives)
    with pytest.raises(UserError, match=said):
        check_config("vqa", config)


def test_objectives_of_classes_are_refused_where_there_are_pairs():
    config = load_config("configs/distill/easy_vqa.py")
    config.objectives = ConfigDict({"clip": {}, "hinton": {}})
    with pytest.raises(UserError, match="hinton is of classes and this run has pairs"):
        check_config("distill", config)

"""A chain of distil runs: its stages, what goes on, and what it is to others."""

import json
import shutil
import signal

import pytest
from ml_collections import ConfigDict

import kdjax
from kdjax.cli import main
from kdjax.commands.chain import plan_stages
from kdjax.commands.schema import check_config
from kdjax.commands.workdir import folder_of
from kdjax.config import load_config
from kdjax.errors import UserError
from kdjax.training.checkpoints import Checkpoints
from kdjax.training.interrupt import Interrupted

ASSISTED = ({"student": "tiny-16"}, {"student": "nano-16", "teacher": "previous"})
SHRUNK = (
    {"student": "tiny-16", "inherit": "magnitude"},
    {"student": "nano-16", "inherit": "magnitude", "inherit_from": "previous"},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.steps, config.batch_size = "tiny-16", 3, 8
    config.seed = 100
    kdjax.run("pretrain", config, str(folder / "teacher"), quiet=True)
    return folder


def config_of(stages=ASSISTED, **changes):
    config = load_config("configs/chain/assistant.py")
    config.distill.teacher, config.distill.steps = "teacher", 4
    config.distill.batch_size, config.distill.log_every = 8, 1
    config.distill.checkpoint.every_steps = 2
    with config.ignore_type():
        config.stages = stages
        config.distill.update_from_flattened_dict(changes)
    return config


def chain(folder, name, stages=ASSISTED, **changes):
    config = config_of(stages, **changes)
    return kdjax.run("chain", config, str(folder / name), quiet=True)


@pytest.fixture(scope="module")
def assisted(folder):
    """A chain that nobody disturbs."""
    chain(folder, "assisted")
    return folder / "assisted"


def asked(workdir):
    return json.loads((workdir / "config.json").read_text())


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def weights(workdir):
    return (workdir / "model/model.safetensors").read_bytes()


def test_each_stage_is_a_run_and_the_chain_ends_with_the_last(assisted):
    results = results_of(assisted)
    stages = [results_of(assisted / name) for name in "12"]
    assert [asked(assisted / name)["student"] for name in "12"] == [
        stage["student"] for stage in results["stages"].values()
    ]
    assert results["zero_shot_accuracy"] == stages[1]["zero_shot_accuracy"]
    assert results["seconds"] == sum(stage["seconds"] for stage in stages)
    assert results["steps"] == 8
    assert weights(assisted) == weights(assisted / "2") != weights(assisted / "1")


def test_the_second_stage_learns_from_the_first(assisted):
    made_from = asked(assisted / "2")["made_from"]
    assert made_from == {"teacher": {"run": run_of(assisted / "1"), "steps": 4}}
    config = load_config("configs/distill/easy_vqa.py")
    config.update(config_of().distill)
    config.student, config.teacher = "nano-16", str(assisted / "1")
    kdjax.run("distill", config, str(assisted.parent / "alone"), quiet=True)
    assert weights(assisted.parent / "alone") == weights(assisted)


def run_of(workdir):
    return results_of(workdir)["run"]


@pytest.mark.parametrize("stages", [ASSISTED, SHRUNK], ids=["assisted", "shrunk"])
def test_a_chain_stopped_in_its_second_stage_goes_on_bit_for_bit(
    folder, tmp_path, stages
):
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    chain(tmp_path, "whole", stages)
    stopped = shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    # As after a kill between the checkpoints of the second stage.
    for made in ("2/checkpoints/4", "2/model", "model"):
        shutil.rmtree(stopped / made)
    for made in ("2/results.json", "results.json"):
        (stopped / made).unlink()
    first = (stopped / "1/results.json").stat().st_mtime_ns
    chain(tmp_path, "stopped", stages)
    assert weights(stopped) == weights(tmp_path / "whole")
    assert (stopped / "1/results.json").stat().st_mtime_ns == first
    lines = [d / "2/metrics.jsonl" for d in (stopped, tmp_path / "whole")]
    losses = [
        [json.loads(x)["loss"] for x in f.read_text().splitlines()] for f in lines
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_a_signal_at_the_very_end_of_a_stage_stops_the_chain_too(
    assisted, tmp_path, monkeypatch
):
    """While its last checkpoint is written; nothing is left to do of it but results."""
    shutil.copytree(assisted.parent / "teacher", tmp_path / "teacher")
    close = Checkpoints.close

    def disturbed(self):
        signal.raise_signal(signal.SIGTERM)
        close(self)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "close", disturbed)
        with pytest.raises(Interrupted):
            chain(tmp_path, "chain")
    there = tmp_path / "chain"
    assert (there / "1/checkpoints/4").is_dir()
    assert not (there / "1/results.json").exists()
    assert not (there / "2").exists()
    chain(tmp_path, "chain")
    assert weights(there) == weights(assisted)
    assert weights(there / "1") == weights(assisted / "1")


def test_a_student_that_shrinks_learns_from_the_teacher_and_inherits(folder):
    chain(folder, "shrunk", SHRUNK)
    second = asked(folder / "shrunk/2")
    assert second["teacher"] == "../teacher"
    assert second["inherit_from"] == "1"
    assert second["made_from"] == {
        "teacher": {"run": run_of(folder / "teacher"), "steps": 3},
        "inherit_from": {"run": run_of(folder / "shrunk/1"), "steps": 4},
    }


def test_the_stage_before_may_be_one_of_several_teachers(folder):
    both = {"student": "nano-16", "teacher": "teacher, previous"}
    chain(folder, "both", (ASSISTED[0], both), steps=1)
    second = asked(folder / "both/2")
    assert second["teacher"] == "../teacher,1"
    assert second["made_from"] == {
        "teacher_0": {"run": run_of(folder / "teacher"), "steps": 3},
        "teacher_1": {"run": run_of(folder / "both/1"), "steps": 1},
    }
    assert asked(folder / "both")["made_from"]["2"] == {
        "teacher_0": second["made_from"]["teacher_0"]
    }
    (folder / "both/results.json").unlink()
    chain(folder, "both", (ASSISTED[0], both), steps=1)


def test_a_run_is_not_taken_for_the_architecture_of_that_name(folder, tmp_path):
    shutil.copytree(folder / "teacher", tmp_path / "nano-16")
    (_, second) = plan_stages(config_of(), folder_of(tmp_path / "chain"))
    assert second.config.student == "nano-16"


def test_a_finished_chain_is_not_repeated_even_without_its_stages(assisted, tmp_path):
    shutil.copytree(assisted.parent / "teacher", tmp_path / "teacher")
    kept = shutil.copytree(assisted, tmp_path / "kept")
    for name in "12":
        shutil.rmtree(kept / name)
    assert (
        chain(tmp_path, "kept")["zero_shot_accuracy"]
        == (results_of(assisted)["zero_shot_accuracy"])
    )
    assert not (kept / "1").exists()


def test_a_stage_that_has_changed_is_refused(assisted):
    changed = (ASSISTED[0], {**ASSISTED[1], "seed": 3})
    with pytest.raises(UserError, match=r"a run of another config \(stages was"):
        chain(assisted.parent, "assisted", changed)
    with pytest.raises(UserError, match=r"distill.seed was 0 and is now 5"):
        chain(assisted.parent, "assisted", seed=5)


def test_a_teacher_that_has_learnt_on_is_refused(folder, tmp_path):
    teacher = shutil.copytree(folder / "teacher", tmp_path / "teacher")
    chain(tmp_path, "chain", steps=1)
    results = results_of(teacher) | {"steps": 9}
    (teacher / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        UserError, match=r"made_from.1.teacher.steps was 3 and is now 9"
    ):
        chain(tmp_path, "chain", steps=1)


def test_a_stage_changes_some_keys_of_a_mapping_and_objectives_as_a_whole(folder):
    stages = (
        {
            "student": "nano-16",
            "optimizer": {"learning_rate": 1e-3, "rates": {"text/": 0.0}},
            "objectives": {"clip": {}},
        },
    )
    (stage,) = plan_stages(config_of(stages), folder_of(folder / "planned"))
    base = config_of().distill
    assert stage.config.optimizer.learning_rate == 1e-3
    assert stage.config.optimizer.warmup == base.optimizer.warmup
    assert stage.config.optimizer.rates.to_dict() == {"text/": 0.0}
    assert set(stage.config.objectives) == {"clip"}
    assert set(base.objectives) == {"clip", "crd", "icl", "fd"}


@pytest.mark.parametrize("name", ["assistant", "progressive", "progressive.py:clip"])
def test_the_stages_of_the_packages_configs_can_be(name):
    file = name if ":" in name else f"{name}.py"
    config = load_config(f"configs/chain/{file}")
    for stage in plan_stages(config, folder_of("runs/chain")):
        check_config("distill", stage.config)


def test_a_chain_is_a_model_to_other_commands(assisted, tmp_path):
    score = load_config("configs/eval/easy_vqa.py")
    score.model = "assisted"
    again = kdjax.run("eval", score, str(assisted.parent / "scored"), quiet=True)
    assert again["zero_shot_accuracy"] == results_of(assisted)["zero_shot_accuracy"]
    assert kdjax.load_clip(str(assisted)).config.vision.width == 16
    kdjax.run("export", {"checkpoint": assisted}, str(tmp_path / "out"), quiet=True)
    card = (tmp_path / "out/README.md").read_text()
    for said in (
        "distilled from `teacher`",
        "| stages | student tiny-16; student nano-16, teacher previous |",
        "| student | nano-16 |",
        "| steps | 8 |",
    ):
        assert said in card
    config = config_of().distill
    config.student, config.teacher, config.steps = "nano-16", "assisted", 1
    kdjax.run("distill", config, str(assisted.parent / "pupil"), quiet=True)
    found = asked(assisted.parent / "pupil")["made_from"]["teacher"]
    assert found == {"run": run_of(assisted), "steps": 8}


def test_the_command_line_tells_the_stages(folder, capsys):
    command = ["chain", "--config=configs/chain/assistant.py"]
    values = {"teacher": "teacher", "steps": 1, "batch_size": 8}
    options = [f"--config.distill.{key}={value}" for key, value in values.items()]
    options += [f"--config.stages[{i}].student=nano-16" for i in (0, 1)]
    assert main([*command, f"--workdir={folder / 'line'}", *options]) == 0
    said = capsys.readouterr()
    results = results_of(folder / "line")
    for stage in results["stages"].values():
        assert f"nano-16 {stage['zero_shot_accuracy']:.1f} %" in said.out
    assert "[2 of 2] nano-16: distil: step 1 of 1" in said.err


@pytest.mark.parametrize(
    ("stages", "changes", "said"),
    [
        ((), {}, "stages of a chain are .*; give at least one: changes to distill"),
        (({},), {"teacher": "previous"}, "the first stage of a chain has the teacher"),
        (
            ({"inherit_from": "previous"},),
            {},
            "the first stage .* has the inherit_from 'previous', .* no stage before it",
        ),
        (({"studnet": "tiny-16"},), {}, "sets 'studnet', .* did you mean 'student'"),
        (
            ({"optimizer": {"warmpu": 0.1}},),
            {},
            r"stages\[0\].optimizer of a chain sets 'warmpu', .* mean 'warmup'",
        ),
        (("tiny-16",), {}, r"stages\[0\] of a chain is 'tiny-16'; give a mapping"),
        (
            (ASSISTED[0], {"student": "previous"}),
            {},
            "stage 2 of the chain: .* no architecture is called 'previous'",
        ),
        (
            (ASSISTED[0], {**ASSISTED[1], "steps": -1}),
            {},
            "stage 2 of the chain: steps is -1",
        ),
        (
            (ASSISTED[0], {"student": "nano-16", "teacher": "tiny-16"}),
            {},
            "stage 2 of the chain: 'tiny-16' is an architecture without weights",
        ),
        (
            (ASSISTED[0], {"student": "nano-16", "teacher": "./runs/no"}),
            {},
            "stage 2 of the chain: './runs/no' is neither a directory here",
        ),
        (
            (SHRUNK[0], {**SHRUNK[1], "student": "small-8"}),
            {},
            "stage 2 .* vision.width 64 is more than the teacher's 32",
        ),
        (
            (ASSISTED[0], {**ASSISTED[1], "inherit": "index", "student": "small-8"}),
            {},
            "stage 2 .* vision.width 64 is more than the teacher's 32",
        ),
        (
            (ASSISTED[0], {**ASSISTED[1], "teacher_scale": "stored"}),
            {},
            "stage 2 .* nothing calibrates the teacher 1 between .* to match_entropy",
        ),
        (
            ({"teacher": "teacher,previous"},),
            {},
            "the first stage of a chain has the teacher 'previous', .* no stage before",
        ),
        (
            (
                ASSISTED[0],
                {
                    "student": "nano-16",
                    "teacher": "teacher,previous",
                    "teacher_scale": "own,stored",
                },
            ),
            {},
            "stage 2 .* nothing calibrates the teacher 1 between",
        ),
        (
            (
                ASSISTED[0],
                {
                    "student": "small-8",
                    "teacher": "previous,teacher",
                    "inherit": "index",
                },
            ),
            {},
            "stage 2 .* vision.width 64 is more than the teacher's 32",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_stage(
    folder, stages, changes, said
):
    with pytest.raises(UserError, match=said):
        chain(folder, "refused", stages, **changes)
    assert not (folder / "refused").exists()


def test_a_config_without_stages_is_refused(folder):
    config = ConfigDict({"distill": config_of().distill})
    with pytest.raises(UserError, match="needs the key 'stages'"):
        kdjax.run("chain", config, str(folder / "refused"), quiet=True)


def test_a_run_here_is_not_taken_for_a_stage(assisted, folder, monkeypatch):
    monkeypatch.chdir(assisted)
    with pytest.raises(UserError, match=r"which would be taken for that in .*other/1"):
        chain(folder, "other")
    assert not (folder / "other").exists()

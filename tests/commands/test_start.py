"""Where a student starts: what it takes from its teacher, and what becomes of it."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from models.sample import clip_config, drawn
from safetensors.numpy import load_file

from kdjax.cli import main, run
from kdjax.commands.models import NamedModel
from kdjax.commands.start import start
from kdjax.commands.teacher import Teacher
from kdjax.config import load_config
from kdjax.data.tokenizer import train_tokenizer
from kdjax.errors import UserError
from kdjax.models import CLIP, architecture
from kdjax.weights import inherit, load_clip, save_clip, with_structure_of

TEACHER, STUDENT = "tiny-16", "nano-16"


def pretrain(folder, name, **changes):
    config = load_config("configs/pretrain/easy_vqa.py")
    config.model, config.batch_size = TEACHER, 8
    config.update(changes)
    run("pretrain", config, str(folder / name), quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    pretrain(folder, "teacher", steps=3)
    return folder


def config_of(**changes):
    config = load_config("configs/distill/easy_vqa.py")
    config.student, config.teacher = STUDENT, "teacher"
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    config.update_from_flattened_dict(changes)
    return config


def distilled(folder, name, **changes):
    """The tensors of a student, by name."""
    results = run("distill", config_of(**changes), str(folder / name), quiet=True)
    assert np.isfinite(results["zero_shot_accuracy"])
    return load_file(folder / name / "model/model.safetensors")


def losses(folder, name):
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def text_of(tensors):
    return {k: v for k, v in tensors.items() if k.startswith(("text_model", "text_pr"))}


def words_of(folder, name):
    return (folder / name / "model/tokenizer.json").read_text()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], err_msg=name)


@pytest.mark.parametrize("by", ["index", "magnitude"])
def test_a_student_that_inherits_starts_with_some_of_its_teachers_weights(folder, by):
    distilled(folder, f"start-{by}", steps=0, inherit=by)
    teacher = load_clip(str(folder / "teacher/model"))
    config = with_structure_of(architecture(STUDENT), teacher.config)
    save_clip(inherit(teacher, config, by=by), folder / f"expected-{by}")
    assert_same(
        load_file(folder / f"start-{by}/model/model.safetensors"),
        load_file(folder / f"expected-{by}/model.safetensors"),
    )
    assert words_of(folder, f"start-{by}") == words_of(folder, "teacher")


@pytest.fixture(scope="module")
def other(folder):
    """A model that is neither the teacher nor its start."""
    pretrain(folder, "other", steps=2, seed=5)
    return "other"


@pytest.mark.parametrize("by", ["index", "magnitude"])
def test_a_student_inherits_from_another_than_its_teacher(folder, other, by):
    changes = {"inherit": by, "inherit_from": other}
    begun = distilled(folder, f"from-{by}", steps=0, **changes)
    whole = load_clip(str(folder / other / "model"))
    config = with_structure_of(architecture(STUDENT), whole.config)
    save_clip(inherit(whole, config, by=by), folder / f"from-expected-{by}")
    assert_same(begun, load_file(folder / f"from-expected-{by}/model.safetensors"))
    made_from = json.loads((folder / f"from-{by}/config.json").read_text())["made_from"]
    assert made_from.keys() == {"teacher", "inherit_from"}


def test_the_text_tower_is_the_teachers_wherever_the_rest_is_from(folder, other):
    changes = {"inherit": "index", "inherit_from": other, "steps": 0}
    own = distilled(folder, "mixed-own", **changes)
    mixed = distilled(folder, "mixed", **changes, text_tower="teacher")
    teacher = load_file(folder / "teacher/model/model.safetensors")
    assert_same(text_of(mixed), text_of(teacher))
    towers = [k for k in own if k.startswith("vision_model")]
    assert_same({k: mixed[k] for k in towers}, {k: own[k] for k in towers})


def test_a_run_is_not_told_apart_by_a_run_that_is_called_teacher(folder):
    shutil.copytree(folder / "teacher", folder / "mine")
    distilled(folder, "of-mine", teacher="mine", inherit="index", steps=0)
    config = json.loads((folder / "of-mine/config.json").read_text())
    assert config["made_from"].keys() == {"teacher"}


def test_a_student_that_inherits_learns_alike_from_outputs_held_and_computed(folder):
    for outputs in ("held", "computed"):
        distilled(folder, outputs, inherit="magnitude", teacher_outputs=outputs)
    held, computed = losses(folder, "held"), losses(folder, "computed")
    np.testing.assert_allclose(held, computed, rtol=1e-4)
    assert held[-1] != held[0]


def test_a_run_that_inherits_goes_on_bit_for_bit(folder):
    changes = {"inherit": "index", "text_tower": "teacher", "checkpoint.every_steps": 2}
    whole = distilled(folder, "whole", **changes)
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped/checkpoints/4")
    shutil.rmtree(folder / "stopped/model")
    (folder / "stopped/results.json").unlink()
    assert_same(distilled(folder, "stopped", **changes), whole)
    assert losses(folder, "stopped") == losses(folder, "whole")


def test_a_student_starts_at_the_newest_checkpoint_of_a_run_under_way(folder):
    shutil.copytree(folder / "teacher", folder / "under-way")
    (folder / "under-way/results.json").unlink()
    (folder / "under-way/model/model.safetensors").unlink()
    begun = distilled(folder, "of-checkpoint", student="under-way", steps=0)
    assert_same(begun, load_file(folder / "teacher/model/model.safetensors"))
    assert words_of(folder, "of-checkpoint") == words_of(folder, "teacher")
    config = json.loads((folder / "of-checkpoint/config.json").read_text())
    ended = json.loads((folder / "teacher/results.json").read_text())
    assert config["made_from"]["student"] == {"run": ended["run"], "checkpoint": 3}
    with pytest.raises(UserError, match=r"no CLIP model .* let it finish"):
        run("export", {"checkpoint": "under-way"}, str(folder / "exported"))


def test_a_run_that_goes_on_for_longer_is_under_way_again(folder):
    """As after a kill between its newest checkpoint and its new results."""
    shutil.copytree(folder / "teacher", folder / "longer")
    pretrain(folder, "longer", steps=4)
    longer = load_file(folder / "longer/model/model.safetensors")
    for made in ("results.json", "model/model.safetensors"):
        shutil.copy(folder / "teacher" / made, folder / "longer" / made)
    begun = distilled(folder, "of-longer", student="longer", steps=0)
    assert_same(begun, longer)
    config = json.loads((folder / "of-longer/config.json").read_text())
    assert config["made_from"]["student"]["checkpoint"] == 4
    with pytest.raises(UserError, match=r"is under way, at step 4, .* ends: let it"):
        run("export", {"checkpoint": "longer"}, str(folder / "exported"))
    pretrain(folder, "longer", steps=4)
    run("export", {"checkpoint": str(folder / "longer")}, str(folder / "exported"))
    assert_same(load_file(folder / "exported/model.safetensors"), longer)


def test_a_run_is_another_where_a_run_before_those_it_names_is_another(
    folder, other, tmp_path
):
    made = []
    for teacher in ("teacher", other):
        place = tmp_path / teacher
        shutil.copytree(folder / teacher, place / "teacher")
        distilled(place, "middle", student="teacher", steps=0)
        made.append(json.loads((place / "middle/results.json").read_text())["run"])
    assert made[0] != made[1]
    distilled(place, "last", student="middle", teacher="middle", steps=0)
    shutil.rmtree(place / "middle")
    shutil.copytree(tmp_path / "teacher/middle", place / "middle")
    said = f"made_from.student.run was '{made[1]}' and is now '{made[0]}'"
    with pytest.raises(UserError, match=said):
        distilled(place, "last", student="middle", teacher="middle", steps=0)


@pytest.mark.parametrize("parts", ["vision", "text"])
def test_one_tower_alone_is_taken_and_the_rest_is_fresh(folder, parts):
    begun = distilled(folder, f"of-{parts}", student="teacher", parts=parts, steps=0)
    taken = load_file(folder / "teacher/model/model.safetensors")
    names = {"vision": ("vision", "visual"), "text": ("text",)}[parts]
    for name, x in begun.items():
        same = name.startswith(names)
        if "bias" not in name and "norm" not in name and name != "logit_scale":
            assert (x == taken[name]).all() == same, name


def test_of_an_architecture_there_are_no_parts_to_take(folder):
    with pytest.raises(UserError, match="parts is 'text' and the model an architec"):
        distilled(folder, "of-none", parts="text")


FROZEN = {"text_tower": "teacher", "optimizer.rates.text": 0.0}


@pytest.mark.parametrize("by", ["none", "index"])
def test_a_text_tower_that_is_copied_and_frozen_stays_the_teachers(folder, by):
    begun = distilled(folder, f"begun-{by}", **FROZEN, inherit=by, steps=0)
    ended = {
        outputs: distilled(
            folder, f"{outputs}-{by}", **FROZEN, inherit=by, teacher_outputs=outputs
        )
        for outputs in ("held", "computed")
    }
    teacher = load_file(folder / "teacher/model/model.safetensors")
    for tensors in (begun, *ended.values()):
        assert_same(text_of(tensors), text_of(teacher))
        for name, x in tensors.items():
            if "bias" not in name and name not in text_of(teacher):
                assert (x != begun[name]).any() == (tensors is not begun), name
    np.testing.assert_allclose(
        losses(folder, f"held-{by}"), losses(folder, f"computed-{by}"), rtol=1e-4
    )
    assert words_of(folder, f"held-{by}") == words_of(folder, "teacher")


def test_a_text_tower_that_is_only_copied_learns(folder):
    tensors = distilled(folder, "copied", text_tower="teacher")
    teacher = load_file(folder / "teacher/model/model.safetensors")
    for name, x in text_of(teacher).items():
        assert (tensors[name] != x).any() or "bias" in name


def test_a_student_with_weights_takes_the_text_tower_too(folder):
    own = distilled(folder, "own", steps=1)
    taken = distilled(folder, "taken", student="own", text_tower="teacher", steps=0)
    teacher = load_file(folder / "teacher/model/model.safetensors")
    assert_same(taken, own | text_of(teacher))


def sigmoid_teacher(folder):
    """A small SigLIP with a tokenizer, as a directory."""
    zoo = architecture(TEACHER)
    kept = ("image_size", "patch_size", "width", "layers", "num_heads", "mlp_width")
    config = clip_config(
        vision={
            **{key: getattr(zoo.vision, key) for key in kept},
            **{"pooling": "attention", "class_token": False, "pre_norm": False},
            **{"patch_bias": True, "activation": "gelu_tanh"},
        },
        text={
            **{key: getattr(zoo.text, key) for key in kept[2:]},
            **{"vocab_size": 12, "eos_id": None, "pooling": "last", "causal": False},
            **{"context_length": 8, "activation": "gelu_tanh"},
        },
        **{"embed_dim": 32, "visual_projection": False, "text_projection_bias": True},
        logit_bias_init=-10.0,
    )
    tokenizer = train_tokenizer(["is there a red circle on green ?"])
    clip = drawn(lambda: CLIP(config, rngs=nnx.Rngs(0)))
    save_clip(clip, folder, tokenizer=tokenizer)


def test_a_student_inherits_from_a_siglip(folder):
    sigmoid_teacher(folder / "siglip")
    teacher = str(folder / "siglip")
    distilled(folder, "sigmoid", teacher=teacher, inherit="magnitude", steps=1)
    student = load_clip(str(folder / "sigmoid/model"))
    assert student.config.vision.pooling == "attention"
    assert student.config.embed_dim == student.config.vision.width == 16


def test_a_text_read_at_its_last_token_is_not_cut_short(folder):
    sigmoid_teacher(folder / "siglip")
    changes = {"teacher": str(folder / "siglip"), "inherit": "index"}
    with pytest.raises(UserError, match="the last of 8 tokens, padding or not: give 8"):
        distilled(folder, "short", caption_length=6, **changes)


def test_a_teacher_whose_pixels_cannot_be_made_is_refused(folder):
    whole = folder / "teacher/model"
    teacher = shutil.copytree(whole, folder / "unlike")
    file = teacher / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"do_normalize": False}))
    load_clip(str(teacher))  # weights alone are another matter
    with pytest.raises(UserError, match="do_normalize is False"):
        distilled(folder, "blind", teacher=str(teacher))


def test_a_student_of_clipa_is_written_in_openclips_layout(folder):
    zoo = architecture(TEACHER)
    clipa = replace(
        zoo,
        vision=replace(zoo.vision, pooling="mean", pre_norm=False),
        text=replace(zoo.text, pooling="last", eos_id=None, context_length=8),
    )
    tokenizer = train_tokenizer(["is there a red circle on green ?"])
    clipa = replace(clipa, text=replace(clipa.text, vocab_size=tokenizer.vocab_size))
    clip = drawn(lambda: CLIP(clipa, rngs=nnx.Rngs(0)))
    save_clip(clip, folder / "clipa", format="open_clip", tokenizer=tokenizer)
    config = config_of(teacher=str(folder / "clipa"), inherit="index", steps=1)
    run("distill", config, str(folder / "meaned"), quiet=True)
    assert (folder / "meaned/model/open_clip_config.json").exists()
    score = load_config("configs/eval/easy_vqa.py")
    score.model = "meaned"
    again = run("eval", score, str(folder / "scored"), quiet=True)
    results = json.loads((folder / "meaned/results.json").read_text())
    assert again["zero_shot_accuracy"] == results["zero_shot_accuracy"]


def test_a_student_that_could_not_be_written_is_refused_before_it_is_trained(folder):
    sigmoid_teacher(folder / "siglip")
    changes = {"teacher": str(folder / "siglip"), "text_tower": "teacher"}
    with pytest.raises(UserError, match=r"could not write its model .* name another"):
        distilled(folder, "unwritten", **changes)
    assert not (folder / "unwritten/checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inherit": "luck"}, "inherit is 'luck'; give none or index or magnitude"),
        ({"text_tower": "mine"}, "text_tower is 'mine'; give own or teacher"),
        ({"optimizer.rates.text": -1.0}, "optimizer.rates is .*numbers of at least 0"),
        (
            {"inherit": "index", "student": "teacher"},
            "the student 'teacher' is no architecture: name one",
        ),
        (
            {"inherit": "index", "student": "small-8"},
            "vision.width 64 is more than the teacher's 32; .*"
            "vision.patch_size 8 is not the teacher's 16",
        ),
        ({"text_tower": "teacher", "caption_length": 41}, "reads 1 to 40 tokens"),
        ({"inherit_from": "other"}, "inherit is 'none', so nothing would be taken"),
        (
            {"inherit": "index", "inherit_from": "other", "student": "mini-8"},
            "inherit_from is 'other': the student cannot inherit .* more than the",
        ),
        (
            {"inherit": "index", "inherit_from": "tiny-16"},
            "inherit_from is 'tiny-16', an architecture without weights: name a run",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    folder, other, changes, said
):
    with pytest.raises(UserError, match=said):
        distilled(folder, "refused", **changes)
    assert not (folder / "refused/checkpoints").exists()


def test_the_command_line_says_it_in_one_line(folder, capsys):
    command = ["distill", "--config=configs/distill/easy_vqa.py"]
    options = {"teacher": "teacher", "student": "vit-t-16", "inherit": "index"}
    options = [f"--config.{key}={value}" for key, value in options.items()]
    assert main([*command, f"--workdir={folder / 'line'}", *options]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(
        "kdjax: the student cannot inherit its teacher's weights"
    )


def named(config, tokenizer):
    params = nnx.to_pure_dict(nnx.state(drawn(lambda: CLIP(config, rngs=nnx.Rngs(0)))))
    return NamedModel(config, params, tokenizer)


def test_images_of_another_space_cannot_take_the_teachers_texts():
    tokenizer = train_tokenizer(["a red circle"])
    teacher, student = (named(clip_config(embed_dim=n), tokenizer) for n in (6, 5))
    with pytest.raises(UserError, match=r"in 6 dimensions, and the student's .* in 5"):
        start(student, Teacher("mine", teacher), by="none", text_tower="teacher")


def places(model):
    return {x.unsafe_buffer_pointer() for x in jax.tree.leaves(model.params)}


def test_what_is_taken_is_the_students_own():
    """A step gives the student's arrays away, and a teacher's are still needed."""
    tokenizer = train_tokenizer(["a red circle"])
    teacher = named(clip_config(), tokenizer)
    narrow = {"width": 4, "num_heads": 1}
    fresh = NamedModel(clip_config(vision=narrow), None, None)
    for by, text_tower in (("none", "teacher"), ("index", "own"), ("index", "teacher")):
        begun = start(fresh, Teacher("mine", teacher), by=by, text_tower=text_tower)
        assert not places(begun) & places(teacher)

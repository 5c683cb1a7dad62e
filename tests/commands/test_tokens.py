"""Patch tokens, layers and principal directions of a teacher, in a run."""

import json
import shutil

import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

import kdjax
from kdjax.commands.compute import compute_of
from kdjax.commands.models import open_model
from kdjax.commands.reporter import Reporter
from kdjax.commands.teacher import MOST_HELD_GIB, Teacher, check_held
from kdjax.config import load_config
from kdjax.errors import UserError

OBJECTIVES = {
    "clip": {},
    "tokens": {"form": "phi_s"},
    "hidden": {"form": "phi_s", "layers": "1:1,-1:2"},
    "attention": {"layers": "even"},
    "principal": {"components": 0.5},
}
OF_CONFIG = ("clip", "crd", "tokens", "hidden", "principal")


def small(file, **changes):
    config = load_config(f"configs/{file}.py")
    config.steps, config.batch_size, config.log_every = 4, 8, 1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    teacher = small("pretrain/easy_vqa", model="tiny-16")
    kdjax.run("pretrain", teacher, str(folder / "teacher"), quiet=True)
    return folder


def distilled(folder, name, objectives=None, **changes):
    """The weights of a student with another width and depth than its teacher."""
    file = "distill/easy_vqa_tokens"
    config = small(file, teacher="teacher", student="nano-16", **changes)
    if objectives is not None:
        config.objectives = objectives
    kdjax.run("distill", config, str(folder / name), quiet=True)
    return load_file(folder / name / "model/model.safetensors")


def losses(folder, name, objectives):
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return np.array([[row[name] for name in ("loss", *objectives)] for row in rows])


def test_what_is_held_of_patches_trains_as_what_is_computed(folder):
    for outputs in ("held", "computed"):
        distilled(folder, outputs, OBJECTIVES, teacher_outputs=outputs)
    held, computed = (
        losses(folder, outputs, OBJECTIVES) for outputs in ("held", "computed")
    )
    assert np.isfinite(held).all()
    assert (held[-1] != held[0]).all()
    np.testing.assert_allclose(held[0], computed[0], rtol=1e-5)
    np.testing.assert_allclose(held, computed, rtol=1e-4)


def test_a_run_that_was_stopped_goes_on_with_the_same_statistics(folder):
    changes = {"checkpoint.every_steps": 2}
    whole = distilled(folder, "whole", **changes)
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped/checkpoints/4")
    shutil.rmtree(folder / "stopped/model")
    (folder / "stopped/results.json").unlink()
    resumed = distilled(folder, "stopped", **changes)
    for name, x in whole.items():
        np.testing.assert_array_equal(resumed[name], x, err_msg=name)
    stopped, undisturbed = (
        losses(folder, name, OF_CONFIG) for name in ("stopped", "whole")
    )
    np.testing.assert_array_equal(stopped, undisturbed)


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ({"hidden": {"layers": "2:1"}}, "layers of objective hidden are '2:1' and the"),
        ({"attention": {"heads": "matched"}}, "set heads to 'mean'"),
        ({"hidden": {"layers": "first"}}, "give 'even' or text such as '-1:-1'"),
    ],
)
def test_what_towers_cannot_be_compared_by_is_refused(folder, objectives, said):
    with pytest.raises(UserError, match=said):
        distilled(folder, "refused", objectives)


@pytest.mark.parametrize("teachers", [1, 2])
def test_more_than_memory_holds_of_all_teachers_is_refused(folder, teachers):
    compute = compute_of(small("distill/easy_vqa"), Reporter(quiet=True))
    opened = open_model("teacher", epath.Path(folder / "student"), compute)
    teacher = Teacher("teacher", opened)
    wanted = (("image_attention", (0, 1)),)
    # Of an embedding, and of 17 tokens, 2 heads and 2 layers, in float32.
    each = 4 * (teacher.config.embed_dim + 2 * 2 * 17 * 17)
    most = MOST_HELD_GIB * 2**30 // (teachers * each)
    given = [teacher] * teachers, [wanted] * teachers
    check_held(*given, most)
    said = f"to hold image and image_attention of {2 * most} images takes 64 GiB"
    with pytest.raises(UserError, match=said):
        check_held(*given, 2 * most)


def test_that_is_said_before_anything_is_computed_of_teachers(folder, monkeypatch):
    monkeypatch.setattr("kdjax.commands.teacher.MOST_HELD_GIB", 0)
    monkeypatch.delattr("kdjax.commands.teacher.see_images")
    monkeypatch.delattr("kdjax.commands.teacher.embed_images")
    with pytest.raises(UserError, match="to hold image and image_attention and image_"):
        distilled(folder, "refused", OBJECTIVES, teacher_outputs="held")

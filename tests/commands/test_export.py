"""What a run made goes out: the same model, for others, with a card."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from weights.golden_models import GOLDEN

import kdjax
from kdjax.config import load_config
from kdjax.data.tokenizer import load_tokenizer
from kdjax.errors import UserError

FILES = {
    "safetensors": {"config.json", "model.safetensors", "preprocessor_config.json"},
    "msgpack": {"config.json", "flax_model.msgpack", "preprocessor_config.json"},
    "open_clip": {"open_clip_config.json", "open_clip_model.safetensors"},
}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
WITHOUT_TOKENIZER = GOLDEN / "huggingface_clip/gelu_odd_sizes"


def export(checkpoint, format, workdir):
    config = {"checkpoint": str(checkpoint), "format": format}
    return kdjax.run("export", config, str(workdir), quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a student, beside that of its teacher."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = load_config("configs/pretrain/easy_vqa.py")
    student = load_config("configs/distill/easy_vqa.py")
    teacher.model, student.student, student.teacher = "tiny-16", "nano-16", "teacher"
    for config in (teacher, student):
        config.steps, config.batch_size = 2, 8
    student.seed, student.teacher_outputs = 7, "computed"
    kdjax.run("pretrain", teacher, str(folder / "teacher"), quiet=True)
    kdjax.run("distill", student, str(folder / "student"), quiet=True)
    return folder / "student"


@pytest.mark.parametrize("format", FILES)
def test_it_is_the_same_model_with_its_tokenizer_and_a_card(run, format, tmp_path):
    results = export(run, format, tmp_path)
    assert set(results["files"]) == FILES[format] | TOKENIZER | {"README.md"}
    ours, theirs = (kdjax.load_clip(str(d)) for d in (run / "model", tmp_path))
    same = jax.tree.map(np.array_equal, nnx.state(ours), nnx.state(theirs))
    assert all(jax.tree.leaves(same))
    texts = ["a red circle", "blue"]
    before, after = (
        load_tokenizer(d).encode(texts, 9) for d in (run / "model", tmp_path)
    )
    np.testing.assert_array_equal(before, after)


def test_the_image_tower_goes_out_as_one_program(run, tmp_path):
    from jax import export as jax_export

    files = {"README.md", "image_tower.json", "image_tower.stablehlo"}
    assert set(export(run, "stablehlo", tmp_path)["files"]) == files
    about = json.loads((tmp_path / "image_tower.json").read_text())
    assert about["input"] == ["batch", 64, 64, 3]
    program = bytearray((tmp_path / "image_tower.stablehlo").read_bytes())
    images = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
    clip = kdjax.load_clip(str(run / "model"))
    np.testing.assert_allclose(
        jax_export.deserialize(program).call(images),
        clip.encode_image(jnp.asarray(images)),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_card_tells_the_runs_config_and_results(run, tmp_path):
    export(run, "safetensors", tmp_path)
    card = (tmp_path / "README.md").read_text()
    results = json.loads((run / "results.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    for said in (
        "library_name: transformers",
        "distilled from `teacher`",
        "| student | nano-16 |",
        "| data | name easy_vqa |",
        "| seed | 7 |",
        "| steps | 2 |",
        f"| zero shot accuracy | {results['zero_shot_accuracy']:.1f} % |",
        "easy_vqa, validation split",
        f"jax {environment['packages']['jax']}",
        'AutoModel.from_pretrained("DIRECTORY")',
    ):
        assert said in card


def test_the_cards_parameters_are_the_models(run, tmp_path):
    export(run, "open_clip", tmp_path)
    clip = kdjax.load_clip(str(tmp_path))
    towers = (
        (clip.vision, clip.visual_projection),
        (clip.text, clip.text_projection),
    )
    counts = [
        sum(x.size for part in parts for x in jax.tree.leaves(nnx.state(part)))
        for parts in towers
    ]
    row = f"| parameters | {counts[0]:,} | {counts[1]:,} |"
    assert row in (tmp_path / "README.md").read_text()


def test_the_card_says_where_the_student_started(run, tmp_path):
    config = load_config("configs/distill/easy_vqa.py")
    config.student, config.teacher, config.inherit = "tiny-16", "teacher", "magnitude"
    config.text_tower, config.steps, config.batch_size = "teacher", 1, 8
    kdjax.run("distill", config, str(run.parent / "heir"), quiet=True)
    export(run.parent / "heir", "safetensors", tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| inherit | magnitude |" in card
    assert "| text tower | teacher |" in card
    assert "| tokenizer |" not in card


def test_the_card_tells_the_steps_that_were_made(run, tmp_path):
    grown = shutil.copytree(run, tmp_path / "grown")
    config = json.loads((grown / "config.json").read_text())
    (grown / "config.json").write_text(json.dumps(config | {"steps": 9000}))
    export(grown, "safetensors", tmp_path / "out")
    assert "| steps | 2 |" in (tmp_path / "out/README.md").read_text()


def test_a_folder_that_cannot_be_one_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be made"):
        export(run, "safetensors", tmp_path / "file/inside")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/README.md").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="is not empty"):
        export(run, "safetensors", tmp_path / "full")


def test_an_export_from_python_needs_no_more_than_the_checkpoint(run, tmp_path):
    kdjax.run("export", {"checkpoint": run}, str(tmp_path), quiet=True)
    assert (tmp_path / "model.safetensors").exists()
    with pytest.raises(UserError, match="give a mapping with the checkpoint"):
        kdjax.run("export", 5, str(tmp_path), quiet=True)


def test_the_same_export_may_be_made_again(run, tmp_path):
    first = export(run, "safetensors", tmp_path)
    # As after a kill in the middle.
    (tmp_path / "model.safetensors").unlink()
    assert export(run, "safetensors", tmp_path) == first


def test_what_is_there_is_not_overwritten(run, tmp_path):
    export(run, "safetensors", tmp_path / "out")
    for format, folder in (("msgpack", tmp_path / "out"), ("safetensors", run)):
        before = sorted(folder.iterdir())
        with pytest.raises(UserError, match="is not empty"):
            export(run, format, folder)
        assert sorted(folder.iterdir()) == before


def test_a_models_folder_and_a_run_beside_the_export_are_found(run, tmp_path):
    export(run / "model", "safetensors", tmp_path)
    assert "| student | nano-16 |" in (tmp_path / "README.md").read_text()
    out = run.parent / "out"
    export("student", "safetensors", out)
    assert (out / "model.safetensors").exists()


def test_a_checkpoint_of_others_without_tokenizer_goes_out_without(tmp_path, capsys):
    config = {"checkpoint": str(WITHOUT_TOKENIZER), "format": "open_clip"}
    results = kdjax.run("export", config, str(tmp_path))
    assert set(results["files"]) == FILES["open_clip"] | {"README.md"}
    said = capsys.readouterr().err
    assert "the export goes without a tokenizer: there is no tokenizer at" in said
    card = (tmp_path / "README.md").read_text()
    assert f"loaded from `{WITHOUT_TOKENIZER}`" in card
    assert "## Results" not in card


def test_a_damaged_tokenizer_is_named_and_nothing_is_written(tmp_path):
    source = tmp_path / "model"
    shutil.copytree(WITHOUT_TOKENIZER, source)
    (source / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        export(source, "safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("checkpoint", "format", "said"),
    [
        ("tiny-8", "safetensors", "architecture without weights"),
        ("tiny-9", "safetensors", "did you mean 'tiny-8'"),
        (GOLDEN / "siglip/fixed_resolution", "msgpack", "Flax weights are of CLIP"),
        (WITHOUT_TOKENIZER, "onnx", "format is 'onnx'; give safetensors or msgpack"),
        ("", "safetensors", "checkpoint is ''"),
    ],
)
def test_what_cannot_be_exported_is_refused(checkpoint, format, said, tmp_path):
    with pytest.raises(UserError, match=said):
        export(checkpoint, format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_answers_questions_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "vqa")
    (tmp_path / "vqa/model/vqa.json").write_text("{}")
    with pytest.raises(UserError, match="export the run that its tower is from"):
        export(tmp_path / "vqa", "safetensors", tmp_path / "out")


def test_the_command_line_says_what_it_wrote(run, tmp_path):
    command = [sys.executable, "-m", "kdjax", "export", f"--checkpoint={run}"]
    command += ["--format=msgpack", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flax_model.msgpack" in done.stdout
    wrong = subprocess.run([*command, "--dtype=1"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr == "kdjax: '--dtype=1' is not an option of kdjax export\n"

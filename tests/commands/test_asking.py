"""A trained model asked from Python says what it said when it was scored."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import kdjax
from kdjax.config import load_config
from kdjax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs: one that sees, and one of grey images."""
    folder = tmp_path_factory.mktemp("runs")
    for name, blank in (("answers", False), ("blank", True)):
        config = load_config("configs/vqa/easy_vqa.py")
        config.tower, config.steps, config.batch_size = "nano-16", 8, 8
        config.data.blank = blank
        kdjax.run("vqa", config, str(folder / name), quiet=True)
    return folder


@pytest.fixture(scope="module")
def vqa(folder):
    return kdjax.load_vqa(folder / "answers")


@pytest.fixture(scope="module")
def records():
    source = kdjax.build_source("easy_vqa", "validation")
    return [source[i] for i in range(0, 400, 20)]


def asked(vqa, records):
    return {
        question.question_id: said
        for record in records
        for question, said in zip(
            record.questions,
            vqa.answer(record.image, [q.question for q in record.questions]),
            strict=True,
        )
    }


@pytest.mark.parametrize("name", ["answers", "blank"])
def test_it_says_what_it_said_when_it_was_scored(folder, records, name):
    """To more questions at once than in training too, and by its folder alone."""
    said = asked(kdjax.load_vqa(folder / name / "model"), records)
    predictions = json.loads((folder / name / "predictions.json").read_text())
    scored = {p["question_id"]: p["answer"] for p in predictions}
    assert max(len(record.questions) for record in records) > 12
    assert said == {key: scored[key] for key in said}
    assert len(set(said.values())) > 1


def test_one_question_has_one_answer_and_none_has_none(vqa, records):
    image, question = records[0].image, records[0].questions[0].question
    said = vqa.answer(image, question)
    assert said in vqa.answers
    assert vqa.answer(image, (question, question)) == [said, said]
    assert vqa.answer(image, []) == []


def test_an_image_may_be_a_file_of_any_size(vqa, records, tmp_path):
    """It is resized as the model's own library would."""
    record = records[0]
    questions = [question.question for question in record.questions]
    picture = Image.fromarray(record.image)
    picture.save(tmp_path / "picture.png")
    large = picture.resize((128, 128), Image.Resampling.NEAREST)
    own = vqa.answer(record.image, questions)
    assert vqa.answer(tmp_path / "picture.png", questions) == own
    assert vqa.answer(large, questions) == own


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("nothing.png", "nothing.png is missing"),
        (np.zeros((4, 4)), "an array of float64"),
        (np.zeros((2, 4, 4, 3), np.uint8), "there are 2 images: ask about one"),
    ],
)
def test_what_is_no_image_is_refused(vqa, image, said):
    with pytest.raises(UserError, match=said):
        vqa.answer(image, "what shape is in the image?")


def test_a_run_that_answers_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no model in .* that answers questions"):
        kdjax.load_vqa(tmp_path)
    with pytest.raises(UserError, match="neither a directory here nor a model"):
        kdjax.load_vqa("no such run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": ["yes", "no"]}, "2 answers and 13 classes"),
        ({"model": {}}, "vision"),
        (None, "header"),
    ],
)
def test_a_damaged_model_is_named(folder, tmp_path, change, said):
    model = tmp_path / "model"
    shutil.copytree(folder / "answers/model", model)
    if change is None:
        (model / "vqa.safetensors").write_bytes(b"x")
    else:
        values = json.loads((model / "vqa.json").read_text())
        (model / "vqa.json").write_text(json.dumps(values | change))
    with pytest.raises(UserError, match=rf"is damaged \(.*{said}"):
        kdjax.load_vqa(tmp_path / "model")

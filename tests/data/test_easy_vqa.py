import importlib.util
from collections import Counter

import numpy as np
import pytest

from kdjax.data.easy_vqa import COLORS, SHAPES, EasyVQA, captions_of, known_facts
from kdjax.errors import UserError


@pytest.fixture(scope="module")
def splits() -> dict[str, EasyVQA]:
    return {split: EasyVQA(split) for split in ("train", "validation", "test")}


def test_splits_hold_all_images_and_questions(splits):
    assert {k: len(v) for k, v in splits.items()} == {
        "train": 3600,
        "validation": 400,
        "test": 1000,
    }
    asked = {k: sum(len(r.questions) for r in v) for k, v in splits.items()}
    assert asked["train"] + asked["validation"] == 38_575
    assert asked["test"] == 9_673


def test_ids_are_unique_over_splits(splits):
    records = [record for split in splits.values() for record in split]
    assert len({record.image_id for record in records}) == 5_000
    questions = [q.question_id for record in records for q in record.questions]
    assert len(questions) == len(set(questions)) == 48_248


def test_the_same_seed_draws_the_same_validation_images(splits):
    def drawn(source: EasyVQA) -> list[int]:
        return [record.image_id for record in source]

    assert drawn(EasyVQA("validation")) == drawn(splits["validation"])
    assert drawn(EasyVQA("validation", seed=1)) != drawn(splits["validation"])


def test_records_hold_images_questions_and_ten_answers(splits):
    record = splits["test"][0]
    assert record.image.shape == (64, 64, 3)
    assert record.image.dtype == np.uint8
    assert not record.image.flags.writeable
    question = record.questions[0]
    assert question.question == "what is the red shape?"
    assert question.answers == ("triangle",) * 10


def test_question_types_separate_what_is_asked_and_negations(splits):
    kinds = Counter(
        (q.question_type, q.answer_type)
        for split in ("train", "validation")
        for record in splits[split]
        for q in record.questions
    )
    assert set(kinds) == {
        ("what color", "other"),
        ("what shape", "other"),
        ("is there", "yes/no"),
        ("is there not", "yes/no"),
    }
    share = (kinds["is there", "yes/no"] + kinds["is there not", "yes/no"]) / 38_575
    assert share == pytest.approx(0.74, abs=0.01)


def test_facts_are_derived_for_most_images(splits):
    facts = [
        known_facts([(q.question, q.answers[0]) for q in record.questions])
        for split in ("train", "validation")
        for record in splits[split]
    ]
    color, shape = zip(*facts, strict=True)
    assert np.mean([c is not None for c in color]) == pytest.approx(0.93, abs=0.005)
    assert np.mean([s is not None for s in shape]) == pytest.approx(0.96, abs=0.005)


@pytest.mark.parametrize(
    ("pairs", "facts"),
    [
        ([("what is the blue shape?", "circle")], ("blue", "circle")),
        ([("what color is the triangle?", "teal")], ("teal", "triangle")),
        ([("what color is the shape?", "teal")], ("teal", None)),
        ([("is there a red shape?", "yes")], ("red", None)),
        ([("is there a red shape?", "no")], (None, None)),
        ([("is there not a circle in the image?", "no")], (None, "circle")),
        ([("is no red shape present?", "no")], ("red", None)),
        (
            [
                ("does the image not contain a circle?", "yes"),
                ("does the image contain a rectangle?", "no"),
            ],
            (None, "triangle"),
        ),
        ([(f"is there a {c} shape?", "no") for c in COLORS[1:]], (COLORS[0], None)),
    ],
)
def test_known_facts(pairs, facts):
    assert known_facts(pairs) == facts


def test_facts_agree_with_the_pixels(splits):
    """A caption's color is the color of the pixels, which nobody told us."""
    dominant = {"red": 0, "green": 1, "blue": 2}
    seen = Counter()
    for record in splits["test"]:
        if record.label < 0:
            continue
        color = COLORS[record.label // len(SHAPES)]
        if color in dominant:
            flat = record.image.reshape(-1, 3).astype(int)
            background = np.median(flat, axis=0)
            inside = flat[np.abs(flat - background).sum(1) > 60]
            seen[int(inside.mean(0).argmax()) == dominant[color]] += 1
    assert seen[True] > 250
    assert seen[False] == 0


def test_captions_say_what_is_known_and_no_more():
    assert captions_of("red", "circle") == (
        "a red circle",
        "a picture of a red circle",
        "there is a red circle",
        "the image contains a red circle",
    )
    assert captions_of("red", None)[0] == "a red shape"
    assert captions_of(None, "circle")[0] == "a circle"
    assert captions_of(None, None)[0] == "a shape"
    for color in ("red", None):
        for shape in ("circle", None):
            captions = captions_of(color, shape)
            assert len(captions) == 4
            words = set(" ".join(captions).split())
            assert words & set(COLORS) == ({color} - {None})
            assert words & set(SHAPES) == ({shape} - {None})


def test_labels_index_the_class_prompts(splits):
    source = splits["test"]
    assert len(source.class_prompts) == 24
    for record in source:
        if record.label >= 0:
            assert record.captions[0] == source.class_prompts[record.label]
        else:
            assert record.captions[0] not in source.class_prompts


def test_answers_are_thirteen_and_sorted(splits):
    source = splits["train"]
    said = {a for record in source for q in record.questions for a in q.answers}
    assert list(source.answers) == sorted(said)
    assert len(source.answers) == 13


def test_texts_cover_captions_and_questions_up_to_the_limit(splits):
    texts = list(splits["train"].texts(limit=500))
    assert len(texts) == 500
    assert texts[:24] == list(EasyVQA.class_prompts)
    assert any(text.endswith("?") for text in texts)


def test_an_index_outside_is_an_index_error(splits):
    with pytest.raises(IndexError, match=r"index 400 of EasyVQA\('validation', 400"):
        splits["validation"][400]


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="'val': choose one of train, validation, test"):
        EasyVQA("val")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'kdjax\[data\]'"):
        EasyVQA()

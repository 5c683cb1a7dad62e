import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data.records import Record
from kdjax.data.scenes import Scenes
from kdjax.data.scenes.source import MAX_QUESTIONS, MAX_SIZE, SPLITS
from kdjax.errors import UserError


def same(first: Record, second: Record) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and first.captions == second.captions
        and first.questions == second.questions
        and (first.image_id, first.label) == (second.image_id, second.label)
    )


@settings(max_examples=30)
@given(
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 2**63 - 1),
    index=st.integers(0, MAX_SIZE - 1),
)
def test_a_sample_depends_on_seed_split_and_index_alone(split, seed, index):
    first = Scenes(split, seed=seed, size=index + 1)
    second = Scenes(split, seed=seed, size=MAX_SIZE)
    assert same(first[index], second[index])


def test_seeds_and_splits_and_indices_differ():
    facts = {
        Scenes(split, seed=seed).scene(index)
        for split in SPLITS
        for seed in (0, 1, 2)
        for index in range(50)
    }
    assert len(facts) == 4 * 3 * 50


def test_image_size_changes_the_resolution_alone():
    small, large = Scenes(image_size=32), Scenes(image_size=224)
    for index in range(20):
        assert small.scene(index) == large.scene(index)
        assert small[index].captions == large[index].captions
        assert small[index].questions == large[index].questions
    assert small[0].image.shape == (32, 32, 3)
    assert large[0].image.shape == (224, 224, 3)


def test_fewer_questions_are_the_first_of_more():
    few, many = Scenes(questions_per_image=3), Scenes(questions_per_image=10)
    for index in range(50):
        assert few[index].questions == many[index].questions[:3]


def test_ids_are_unique_and_fit_in_64_bits():
    images, questions = set(), set()
    for split in SPLITS:
        source = Scenes(split, size=MAX_SIZE, questions_per_image=MAX_QUESTIONS)
        for index in (0, 1, 2, MAX_SIZE - 1):
            record = source[index]
            images.add(record.image_id)
            questions |= {question.question_id for question in record.questions}
    assert len(images) == 16
    assert len(questions) == 16 * MAX_QUESTIONS
    assert max(images | questions) < 2**63


def test_single_objects_are_labelled_with_their_prompt():
    source = Scenes(size=200, image_size=16, questions_per_image=0)
    assert len(set(source.class_prompts)) == 64
    labelled = 0
    for index in range(200):
        record, things = source[index], source.scene(index).things
        if len(things) > 1:
            assert record.label == -1
            continue
        words = source.class_prompts[record.label].split()
        assert words[1:] == [things[0].colour, things[0].shape]
        labelled += 1
    assert 25 < labelled < 55


def test_the_whole_vocabulary_is_used():
    source = Scenes(size=150, image_size=16)
    said = {a for i in range(150) for q in source[i].questions for a in q.answers}
    assert said == set(source.answers)


def test_texts_are_captions_and_questions_up_to_a_limit():
    source = Scenes(size=40)
    texts = list(source.texts(limit=31))
    record = source[0]
    assert len(texts) == 31
    assert texts[:15] == [*record.captions, *(q.question for q in record.questions)]
    assert len(list(Scenes(size=2).texts())) == 30


@pytest.mark.parametrize("index", [-1, 5, 10**9])
def test_an_index_outside_names_index_and_length(index):
    with pytest.raises(IndexError, match=rf"index {index} .*size=5.*0 to 4"):
        Scenes(size=5)[index]


def test_numpy_indices_work():
    assert same(Scenes()[np.int64(3)], Scenes()[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "no split 'val': choose one of train, validation"),
        (
            {"size": MAX_SIZE + 1},
            f"size={MAX_SIZE + 1} must be a whole number from 1 to {MAX_SIZE}",
        ),
        ({"size": 0}, "size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"image_size": 8}, "image_size=8 .* 16 to 4096"),
        ({"questions_per_image": 33}, "questions_per_image=33 .* 0 to 32"),
    ],
)
def test_bad_choices_are_refused_with_a_sentence(options, message):
    with pytest.raises(UserError, match=message):
        Scenes(**options)


def test_repr_builds_the_source_again():
    source = Scenes("test", seed=3, size=7, image_size=32, questions_per_image=2)
    assert repr(eval(repr(source))) == repr(source)


def test_splits_that_are_scored_have_a_length_of_their_own():
    lengths = [len(Scenes(s, size=10**9, eval_size=50)) for s in ("train", "test")]
    assert lengths == [10**9, 50]
    assert len(Scenes("test", size=7)) == 7

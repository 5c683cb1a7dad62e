"""Which test images a report shows."""

import numpy as np
import pytest
from study.sample import row

from kdjax.data.records import Question, Record
from kdjax.study.examples import COUNT, choose_examples

TYPES = ("shape", "colour")


class Pictures:
    """A source of images with a question of each type."""

    name, split, answers, class_prompts = "pictures", "test", ("yes", "no"), ()

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        said = ("no", "yes", "yes", "no", "yes")
        asked = tuple(
            Question(10 * index + i, f"what {kind}?", kind, "other", said)
            for i, kind in enumerate(TYPES)
        )
        return Record(index, np.full((4, 4, 3), index, np.uint8), ("a",), asked)

    def texts(self, limit=2000):
        return iter(())


def scored(images, disputed=(), seeds=(0,)):
    """A teacher that is always right and a student that errs on disputed questions."""
    ids = [10 * image + i for image in range(images) for i in range(len(TYPES))]
    teacher = (row("teacher", "strong", 99.0), dict.fromkeys(ids, "yes"), {})
    teacher[2].update(dict.fromkeys(ids, 1.0))
    runs = [teacher]
    for seed in seeds:
        right = {i: 0.0 if i in disputed else 1.0 for i in ids}
        said = {i: f"seed {seed}" for i in ids}
        runs.append((row("student", "tiny", 50.0, seed=seed), said, right))
    return runs


def shown(images, **options):
    examples = choose_examples(Pictures(images), scored(images, **options))
    return [(int(e.image[0, 0, 0]), e.question) for e in examples]


def test_disputed_questions_come_first_and_types_take_turns():
    found = shown(20, disputed=(51, 90, 130, 171))
    assert set(found[:4]) == {
        (5, "what colour?"),
        (9, "what shape?"),
        (13, "what shape?"),
        (17, "what colour?"),
    }
    for turn in (found[:2], found[2:4], found[4:]):
        assert {question for _, question in turn} == {"what shape?", "what colour?"}


@pytest.mark.parametrize(("images", "count"), [(0, 0), (1, 1), (4, 4), (20, COUNT)])
def test_no_image_comes_twice(images, count):
    found = [image for image, _ in shown(images, disputed=(0, 1))]
    assert len(found) == len(set(found)) == count


def test_ties_go_to_the_first():
    assert shown(20)[:2] == [(0, "what shape?"), (1, "what colour?")]


def test_the_truth_is_what_most_annotators_said():
    (example, *_) = choose_examples(Pictures(3), scored(3))
    assert example.truth == "yes"


def test_every_model_speaks_once_a_student_by_its_first_seed():
    (example, *_) = choose_examples(Pictures(3), scored(3, (0,), seeds=(4, 2)))
    assert example.said == (("strong", "yes", 1.0), ("tiny", "seed 4", 0.0))

from collections import Counter

import pytest

from kdjax.data.scenes.annotators import ANSWERS, annotate, answer_type
from kdjax.data.scenes.chance import Dice
from kdjax.data.scenes.questions import Asked

HARD = 0.2


def answers_to(truth, difficulty, many=500):
    asked = Asked("?", "exist", truth, difficulty)
    return [annotate(asked, Dice(0, 0, index, 3)) for index in range(many)]


def test_the_vocabulary_has_25_answers():
    assert len(set(ANSWERS)) == len(ANSWERS) == 25


def test_answer_types_are_those_of_vqav2():
    assert Counter(map(answer_type, ANSWERS)) == {"other": 16, "number": 7, "yes/no": 2}


@pytest.mark.parametrize("truth", ANSWERS)
def test_ten_answer_and_most_say_the_truth(truth):
    for answers in answers_to(truth, HARD, many=50):
        assert len(answers) == 10
        assert set(answers) <= set(ANSWERS)
        assert answers.count(truth) >= 6


def test_errors_are_as_frequent_as_the_question_is_hard():
    for difficulty in (0.0, 0.05, 0.1):
        wrong = [10 - answers.count("red") for answers in answers_to("red", difficulty)]
        assert sum(wrong) / 5000 == pytest.approx(difficulty, abs=0.012)


def test_each_annotator_errs_alike_until_four_have():
    wrong = [[a != "red" for a in answers] for answers in answers_to("red", 0.1, 4000)]
    for place in range(10):
        assert sum(row[place] for row in wrong) / 4000 == pytest.approx(0.1, abs=0.02)
    certain = answers_to("red", 1.0, many=5)
    assert all("red" not in row[:4] and set(row[4:]) == {"red"} for row in certain)


def test_errors_are_near_the_truth():
    assert set(sum(answers_to("3", HARD), ())) == {"2", "3", "4"}
    assert set(sum(answers_to("0", HARD), ())) == {"0", "1"}
    assert set(sum(answers_to("6", HARD), ())) == {"5", "6"}
    assert set(sum(answers_to("red", HARD), ())) == {"red", "orange", "pink"}
    assert set(sum(answers_to("yes", HARD), ())) == {"yes", "no"}

import itertools

import pytest

from kdjax.data.easy_vqa import EasyVQA
from kdjax.data.records import Question
from kdjax.errors import UserError
from kdjax.evaluation.priors import majority_answers, question_only_answers
from kdjax.evaluation.vqa import annotations_of, vqa_accuracy

NUMBERS = itertools.count()


def asked(question: str, kind: str, *answers: str) -> Question:
    return Question(next(NUMBERS), question, kind, "other", answers)


TRAIN = [
    asked("is it red?", "is it", "yes", "yes", "no"),
    asked("is it red?", "is it", "no", "no"),
    asked("is it blue?", "is it", "yes", "yes"),
    asked("what color?", "what", "red", "blue"),
]


@pytest.mark.parametrize(
    ("question", "kind", "answer"),
    [
        ("is it red?", "is it", "no"),
        ("is it blue?", "is it", "yes"),
        ("is it green?", "is it", "yes"),
        ("what color?", "what", "blue"),
        ("what shape?", "what", "blue"),
        ("how many?", "how many", "yes"),
    ],
)
def test_the_same_words_then_the_same_type_then_all_decide(question, kind, answer):
    # In all: yes 4, no 3. "is it": yes 4, no 3. "is it red?": no 3, yes 2.
    test = asked(question, kind)
    assert question_only_answers(TRAIN, [test]) == {test.question_id: answer}


def test_every_annotator_counts_and_ties_go_by_the_alphabet():
    test = [asked("is it red?", "is it"), asked("what color?", "what")]
    said = majority_answers(TRAIN, test)
    assert said == {question.question_id: "yes" for question in test}
    tied = [asked("", "", "b", "c"), asked("", "", "c", "b", "a")]
    assert set(majority_answers(tied, test).values()) == {"b"}


def test_the_answers_of_test_questions_are_not_looked_at():
    test = asked("is it red?", "is it", *["maybe"] * 10)
    for rule in (majority_answers, question_only_answers):
        assert rule(iter(TRAIN), iter([test])).keys() == {test.question_id}
        assert "maybe" not in rule(TRAIN, [test]).values()


def test_questions_without_answers_teach_nothing():
    unanswered = asked("how many?", "how many")
    said = question_only_answers([*TRAIN, unanswered], [unanswered])
    assert said == {unanswered.question_id: "yes"}
    for rule in (majority_answers, question_only_answers):
        with pytest.raises(UserError, match="no training question has an answer"):
            rule([unanswered], TRAIN)


def test_accuracies_on_easy_vqa_without_looking():
    train, test = (
        [question for record in EasyVQA(split) for question in record.questions]
        for split in ("train", "test")
    )
    annotations = annotations_of(test)
    majority = vqa_accuracy(majority_answers(train, test), annotations)
    assert majority.overall == pytest.approx(37.33, abs=0.01)
    question_only = vqa_accuracy(question_only_answers(train, test), annotations)
    assert question_only.overall == pytest.approx(67.06, abs=0.01)

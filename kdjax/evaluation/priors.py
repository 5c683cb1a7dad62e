"""Answers that need no image and no model: the floor under every VQA accuracy."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kdjax.data.records import Question
from kdjax.errors import UserError


def majority_answers(
    train: Iterable[Question], test: Iterable[Question]
) -> dict[int, str]:
    """Return the most frequent training answer for every test question, by its id.

    Each annotator's answer counts once; of equally frequent ones the alphabetically
    first is taken.

    Args:
        train: questions whose answers are counted.
        test: questions to answer; their own answers are not looked at.

    Raises:
        UserError: no training question has an answer.
    """
    said = _most_frequent(_count(train).overall)
    return {question.question_id: said for question in test}


def question_only_answers(
    train: Iterable[Question], test: Iterable[Question]
) -> dict[int, str]:
    """Return the most frequent training answer to the same words, by question id.

    A question that was not asked in training gets the most frequent answer to its
    question type, and one of a new type the most frequent of all; they are counted as
    in `majority_answers`.

    Args:
        train: questions whose answers are counted.
        test: questions to answer; their own answers are not looked at.

    Raises:
        UserError: no training question has an answer.
    """
    counted = _count(train)
    overall = _most_frequent(counted.overall)
    by_type = {key: _most_frequent(some) for key, some in counted.by_type.items()}
    by_words = {key: _most_frequent(some) for key, some in counted.by_words.items()}
    return {
        question.question_id: by_words.get(
            question.question, by_type.get(question.question_type, overall)
        )
        for question in test
    }


@dataclass
class _Counts:
    overall: Counter[str] = field(default_factory=Counter)
    by_type: dict[str, Counter[str]] = field(default_factory=dict)
    by_words: dict[str, Counter[str]] = field(default_factory=dict)


def _count(questions: Iterable[Question]) -> _Counts:
    counts = _Counts()
    for question in questions:
        if not question.answers:
            continue
        counts.overall.update(question.answers)
        counts.by_type.setdefault(question.question_type, Counter()).update(
            question.answers
        )
        counts.by_words.setdefault(question.question, Counter()).update(
            question.answers
        )
    if not counts.overall:
        raise UserError(
            "no training question has an answer to count: give a split with answers"
        )
    return counts


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))

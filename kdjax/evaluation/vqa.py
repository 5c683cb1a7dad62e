"""VQA accuracy as VQAv2's evaluator counts it, and as EvalAI and TextVQA do."""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdjax.data.records import Question
from kdjax.errors import UserError

RULES = ("official", "evalai")

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
_NUMBERS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(i) for i, word in enumerate(_NUMBERS.split())} | {"none": "0"}

# The evaluators' contractions. Each is written for itself less one of its apostrophes:
# "wouldnt've" and "wouldn'tve" become "wouldn't've", but "wouldntve" stays. What their
# table also holds without effect (capital letters, words for themselves) is left out.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've
    it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd
    they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've
    y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # The wrong way round, as they have it.

_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# They pass the flag re.UNICODE where the number of replacements belongs.
_MOST_PERIODS = 32

_Processing = Callable[[str], str]


@dataclass(frozen=True)
class VQAAccuracy:
    """VQA accuracies in percent, not rounded.

    Attributes:
        overall: mean over the questions; the official script prints two decimals.
        per_question_type: mean over the questions of each type.
        per_answer_type: mean over the questions of each type.
        per_question: by question id, in the annotations' order.
    """

    overall: float
    per_question_type: dict[str, float]
    per_answer_type: dict[str, float]
    per_question: dict[int, float]


def vqa_accuracy(
    predictions: Mapping[int, str],
    annotations: Sequence[Mapping[str, Any]],
    rule: str = "official",
) -> VQAAccuracy:
    """Return the accuracy of Antol et al. 2015 (arXiv:1505.00468).

    A question's accuracy is the mean over its annotators of min(1, m / 3), m being how
    many of the other annotators said what is predicted. That is 0, 30, 60, 90 and 100 %
    when 0, 1, 2, 3 and more of ten agree.

    "official" is the script of VQAv2: answers are normalised only where the annotators
    differ, so that "Yes" is wrong when all ten said "yes"; and the other annotators are
    those whose whole entry differs, so that equal entries without `answer_id` are left
    out together. "evalai" is what TextVQA and the EvalAI server use: it always
    normalises, after deleting commas and splitting off "'s".

    Args:
        predictions: answers by question id, for exactly the annotated questions.
        annotations: entries of an official annotation file, with question_id,
            question_type, answer_type and answers; not changed.
        rule: "official" or "evalai".

    Raises:
        UserError: unknown rule; predictions that are missing, too many or no strings;
            annotations that are incomplete; for "evalai", not ten answers.
    """
    _check_annotations(annotations, rule)
    _check_predictions(predictions, [one["question_id"] for one in annotations])
    # Answers recur; both caches end with this call.
    strip = functools.cache(_strip)
    normalize = functools.cache(functools.partial(normalize_answer, rule=rule))
    scores: dict[int, float] = {}
    question_types: dict[str, list[float]] = {}
    answer_types: dict[str, list[float]] = {}
    for one in annotations:
        said, answers = predictions[one["question_id"]], one["answers"]
        if rule == "official":
            score = _official_score(said, answers, strip, normalize)
        else:
            score = _evalai_score(said, answers, normalize)
        scores[one["question_id"]] = score
        question_types.setdefault(one["question_type"], []).append(score)
        answer_types.setdefault(one["answer_type"], []).append(score)
    return VQAAccuracy(
        overall=_percent(scores.values()),
        per_question_type={key: _percent(some) for key, some in question_types.items()},
        per_answer_type={key: _percent(some) for key, some in answer_types.items()},
        per_question={key: 100 * score for key, score in scores.items()},
    )


def annotations_of(questions: Iterable[Question]) -> list[dict[str, Any]]:
    """Return questions in the format of VQAv2's annotation file, as far as scored."""
    return [
        {
            "question_id": question.question_id,
            "question_type": question.question_type,
            "answer_type": question.answer_type,
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                for number, answer in enumerate(question.answers, 1)
            ],
        }
        for question in questions
    ]


def normalize_answer(text: str, rule: str = "official") -> str:
    """Return an answer as it is compared where the annotators differ.

    Punctuation goes, number words become digits, articles go, contractions get their
    apostrophe. "evalai" deletes commas and question marks and splits off "'s" before.
    """
    if rule == "evalai":
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    words = _without_punctuation(_strip(text)).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(w, w) for w in words if w not in ARTICLES)


def _strip(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """Delete a mark that stands next to a space anywhere, make others a space.

    A comma between two digits has all marks deleted. Periods go unless a digit follows.
    """
    numeric = _DIGIT_COMMA.search(text) is not None
    marks = {
        ord(mark): "" if numeric or f"{mark} " in text or f" {mark}" in text else " "
        for mark in PUNCTUATION
        if mark in text
    }
    return _PERIOD.sub("", text.translate(marks), count=_MOST_PERIODS)


def _official_score(
    said: str,
    answers: Sequence[Mapping[str, Any]],
    strip: _Processing,
    normalize: _Processing,
) -> float:
    process = strip
    if len({strip(entry["answer"]) for entry in answers}) > 1:
        process = normalize
    wanted = process(said)
    # Alike when all else in their entries is alike too.
    agreeing = [
        {**entry, "answer": wanted}
        for entry in answers
        if process(entry["answer"]) == wanted
    ]
    return _leave_one_out(agreeing, len(answers))


def _evalai_score(
    said: str, answers: Sequence[Mapping[str, Any]], normalize: _Processing
) -> float:
    wanted = normalize(said)
    agreeing = [i for i, e in enumerate(answers) if normalize(e["answer"]) == wanted]
    return _leave_one_out(agreeing, len(answers))


def _leave_one_out(agreeing: list[Any], votes: int) -> float:
    """Return the mean over all votes of min(1, others that agree / 3).

    Votes that do not agree have all of `agreeing` as others, one of `agreeing` those
    that are not equal to it.
    """
    everyone = len(agreeing)
    total = (votes - everyone) * min(1.0, everyone / 3)
    for vote in agreeing:
        total += min(1.0, (everyone - agreeing.count(vote)) / 3)
    return total / votes


def _percent(scores: Collection[float]) -> float:
    return 100 * sum(scores) / len(scores)


def _check_annotations(annotations: Sequence[Mapping[str, Any]], rule: str) -> None:
    if rule not in RULES:
        raise UserError(f"no VQA rule {rule!r}: choose one of {', '.join(RULES)}")
    if not annotations:
        raise UserError("there are no annotations to score by: give at least one")
    seen: set[int] = set()
    for number, one in enumerate(annotations):
        for key in ("question_id", "question_type", "answer_type", "answers"):
            if key not in one:
                raise UserError(
                    f"annotation {number} has no {key!r}: give entries as in VQAv2's "
                    "annotation file"
                )
        question_id = one["question_id"]
        if question_id in seen:
            raise UserError(f"question {question_id} is annotated twice: keep one")
        seen.add(question_id)
        _check_answers(question_id, one["answers"], rule)


def _check_answers(question_id: int, answers: Any, rule: str) -> None:
    if not isinstance(answers, Sequence) or not answers:
        raise UserError(
            f"question {question_id} has no annotators' answers: test splits without "
            "answers cannot be scored here"
        )
    for entry in answers:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("answer"), str):
            raise UserError(
                f"question {question_id} has the annotator's answer {entry!r}: give "
                "each as a mapping with a string under 'answer'"
            )
    if rule == "evalai" and len(answers) != 10:
        raise UserError(
            f"question {question_id} has {len(answers)} annotators' answers but rule "
            "'evalai' is defined for ten: score by 'official'"
        )


def _check_predictions(
    predictions: Mapping[int, str], question_ids: Sequence[int]
) -> None:
    wanted = set(question_ids)
    missing = [key for key in question_ids if key not in predictions]
    if missing:
        raise UserError(
            f"{len(missing)} annotated questions have no prediction ({_first(missing)})"
            ": answer every question once"
        )
    extra = [key for key in predictions if key not in wanted]
    if extra:
        raise UserError(
            f"{len(extra)} predictions are for questions that are not annotated "
            f"({_first(extra)}): score the split that was answered"
        )
    wrong = [key for key, said in predictions.items() if not isinstance(said, str)]
    if wrong:
        raise UserError(
            f"{len(wrong)} predictions are no strings ({_first(wrong)}): give every "
            "answer as text"
        )


def _first(keys: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, keys[:3]))
    return f"{shown}, ..." if len(keys) > 3 else shown

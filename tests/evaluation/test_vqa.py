import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdjax.data.records import Question
from kdjax.errors import UserError
from kdjax.evaluation.vqa import (
    RULES,
    annotations_of,
    normalize_answer,
    vqa_accuracy,
)

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "vqa_accuracy.json").read_text()
)
TEXTS = st.text(alphabet="abtwoTN019.,'!-_ \n\té") | st.sampled_from(
    ["yes", "the 2", "none", "1,000", "dont", "a.m."]
)


def annotation(
    answers: list[str], question_id: int = 1, *, numbered: bool = True, **more: Any
) -> dict[str, Any]:
    entries = [{"answer": answer, "answer_confidence": "yes"} for answer in answers]
    if numbered:
        entries = [{**entry, "answer_id": i} for i, entry in enumerate(entries, 1)]
    kinds = {"question_type": "is the", "answer_type": "other"} | more
    return {"question_id": question_id, **kinds, "answers": entries}


def accuracy(said: str, answers: list[str], rule: str = "official") -> float:
    return vqa_accuracy({1: said}, [annotation(answers)], rule).overall


@pytest.mark.parametrize("rule", RULES)
def test_every_golden_answer_is_normalised_as_the_released_code_does(rule):
    column = RULES.index(rule)
    assert {said: normalize_answer(said, rule) for said in GOLDEN["normalized"]} == {
        said: expected[column] for said, expected in GOLDEN["normalized"].items()
    }


@pytest.mark.parametrize("rule", RULES)
def test_golden_accuracies_are_those_of_the_released_evaluators(rule):
    questions = GOLDEN["questions"]
    annotations = [
        annotation(
            one["answers"],
            number,
            numbered=one["answer_id"],
            question_type=one["question_type"],
            answer_type=one["answer_type"],
        )
        for number, one in enumerate(questions)
    ]
    said = {number: one["prediction"] for number, one in enumerate(questions)}
    ours, theirs = vqa_accuracy(said, annotations, rule), GOLDEN[rule]
    assert len(questions) > 400
    assert list(ours.per_question) == list(range(len(questions)))
    assert list(ours.per_question.values()) == pytest.approx(
        theirs["per_question"], abs=1e-9
    )
    for key in ("overall", "per_question_type", "per_answer_type"):
        assert getattr(ours, key) == pytest.approx(theirs[key], abs=1e-9)


@pytest.mark.parametrize(
    ("said", "official", "evalai"),
    [
        ("1,000", "1000", "1000"),
        ("a.m.", "am", "am"),
        ("5.x", "5x", "5x"),
        ("red,blue", "red blue", "redblue"),
        ("man's", "man's", "man 's"),
        ("two dogs", "2 dogs", "2 dogs"),
        ("none", "0", "0"),
        ("a-b", "b", "b"),
        ("1,000 - a/b", "1000 ab", "1000 b"),
        ("let's go", "let's go", "let 's go"),
        ("." * 40, "." * 8, "." * 8),
        ("wouldn'tve", "wouldn't've", "wouldn't've"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("1.5 - .5", "1.5 .5", "1.5 .5"),
        ("10:30 #1 & 50%", "10:30 #1 & 50%", "10:30 #1 & 50%"),
        ("eleven", "eleven", "eleven"),
    ],
)
def test_normalised_answers(said, official, evalai):
    assert normalize_answer(said) == official
    assert normalize_answer(said, "evalai") == evalai


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("agree", "percent"), list(enumerate([0, 30, 60, 90, *[100] * 7]))
)
def test_percent_by_how_many_of_ten_agree(agree, percent, rule):
    answers = ["cat"] * agree + ["dog"] * (10 - agree)
    assert accuracy("cat", answers, rule) == pytest.approx(percent)


def test_unanimous_answers_are_compared_as_they_are_by_the_official_rule_only():
    assert accuracy("Yes", ["yes"] * 10) == 0
    assert accuracy("Yes", ["yes"] * 10, "evalai") == 100
    assert accuracy("two", ["2"] * 10) == 0
    assert accuracy(" yes\n", ["yes\t"] * 5 + ["yes"] * 5) == 100
    assert accuracy("Yes", ["yes"] * 9 + ["no"]) == 100


def test_equal_entries_without_answer_id_are_left_out_together():
    twins = annotation(["cat"] * 4 + ["dog"] * 6, numbered=False)
    assert vqa_accuracy({1: "cat"}, [twins]).overall == pytest.approx(60)
    assert vqa_accuracy({1: "cat"}, [twins], "evalai").overall == 100
    all_equal = annotation(["cat"] * 10, numbered=False)
    assert vqa_accuracy({1: "cat"}, [all_equal]).overall == 0


def test_types_are_means_over_their_questions():
    annotations = [
        annotation(["2"] * 10, 7, question_type="how many", answer_type="number"),
        annotation(["no"] * 3 + ["yes"] * 7, 5, answer_type="yes/no"),
        annotation(["up"] * 10, 6),
    ]
    found = vqa_accuracy({5: "no", 6: "up", 7: "3"}, annotations)
    assert found.overall == pytest.approx(190 / 3)
    assert found.per_question_type == pytest.approx({"how many": 0, "is the": 95})
    assert found.per_answer_type == pytest.approx(
        {"number": 0, "yes/no": 90, "other": 100}
    )
    assert found.per_question == pytest.approx({7: 0, 5: 90, 6: 100})


@given(st.lists(TEXTS, min_size=10, max_size=10), st.data())
def test_an_accuracy_is_one_of_five_whatever_order_annotators_come_in(answers, data):
    said = data.draw(st.sampled_from(answers) | TEXTS)
    shuffled = data.draw(st.permutations(answers))
    for rule in RULES:
        found = accuracy(said, answers, rule)
        assert any(found == pytest.approx(each) for each in (0, 30, 60, 90, 100))
        assert accuracy(said, shuffled, rule) == pytest.approx(found)


@given(st.lists(TEXTS, min_size=10, max_size=10), TEXTS)
def test_case_question_marks_and_outer_space_do_not_count_for_evalai(answers, said):
    assert accuracy(f"\n{said.upper()}?\t", answers, "evalai") == accuracy(
        said, answers, "evalai"
    )


def test_inputs_are_not_changed_and_scoring_twice_gives_the_same():
    annotations = [annotation(["Two.", "the two"] * 5)]
    before, said = copy.deepcopy(annotations), {1: "2"}
    once = vqa_accuracy(said, annotations)
    assert once == vqa_accuracy(said, annotations)
    assert once.overall == 100
    assert (annotations, said) == (before, {1: "2"})


def test_questions_become_official_entries():
    question = Question(12, "how many?", "how many", "number", ("2", "two"))
    assert annotations_of([question]) == [
        {
            "question_id": 12,
            "question_type": "how many",
            "answer_type": "number",
            "answers": [
                {"answer": "2", "answer_confidence": "yes", "answer_id": 1},
                {"answer": "two", "answer_confidence": "yes", "answer_id": 2},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({1: "a"}, r"4 annotated questions have no prediction \(2, 3, 4, \.\.\.\)"),
        (
            {i: "a" for i in (9, 1, 2, 3, 4, 5)},
            r"1 predictions are for questions that are not annotated \(9\)",
        ),
        # Not the first one: the tests' own type checker looks at that.
        ({1: "a", 2: "a", 3: None, 4: "a", 5: 2}, r"2 predictions are no .*\(3, 5\)"),
    ],
)
def test_predictions_must_be_a_string_for_each_annotated_question(predictions, message):
    annotations = [annotation(["a"] * 10, i) for i in range(1, 6)]
    with pytest.raises(UserError, match=message):
        vqa_accuracy(predictions, annotations)


@pytest.mark.parametrize(
    ("annotations", "rule", "message"),
    [
        ([annotation(["a"])], "vizwiz", "no VQA rule 'vizwiz': .* official, evalai"),
        ([], "official", "no annotations"),
        ([annotation([])], "official", "question 1 has no annotators' answers"),
        ([annotation(["a"]), annotation(["a"])], "official", "1 is annotated twice"),
        ([annotation(["a"] * 9)], "evalai", "9 annotators' answers .* ten"),
        ([{"question_id": 1}], "official", "annotation 0 has no 'question_type'"),
        (
            [{**annotation([]), "answers": ["a", "b"]}],
            "official",
            "the annotator's answer 'a': give each as a mapping",
        ),
    ],
)
def test_annotations_must_be_complete(annotations, rule, message):
    with pytest.raises(UserError, match=message):
        vqa_accuracy({1: "a"}, annotations, rule)

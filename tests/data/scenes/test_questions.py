"""Every answer is worked out again, from the question's words and the scene's facts."""

import re
from collections import Counter, defaultdict

import pytest

from kdjax.data.scenes import Scenes
from kdjax.data.scenes.questions import KINDS
from kdjax.data.scenes.world import COLOURS, HELD_OUT, SHAPES, SIZES, TEXTURES

SPLITS = ("train", "compositional")
RELATION = "(left of|right of|above|below)"


def asked(split, size=400, **options):
    source = Scenes(split, size=size, **options)
    for index in range(size):
        scene = source.scene(index)
        for question in source._questions(scene, index):
            yield scene.things, question


@pytest.fixture(scope="module", params=SPLITS)
def questions(request):
    return list(asked(request.param))


def matching(things, phrase):
    found = list(things)
    for word in phrase.split():
        for name, values in (
            ("size", SIZES),
            ("texture", TEXTURES),
            ("colour", COLOURS),
            ("shape", SHAPES),
        ):
            stems = {word, word.removesuffix("s"), word.removesuffix("es")}
            if stems & set(values):
                found = [t for t in found if getattr(t, name) in stems]
    return found


def only(things, phrase):
    place = re.fullmatch(f"object {RELATION} the (.*)", phrase)
    if place:
        anchor = only(things, place[2])
        gaps = [(offset(t, place[1], anchor), t) for t in things if t is not anchor]
        (found,) = [t for gap, t in gaps if gap >= 0.15]
        assert all(gap <= 0 for gap, t in gaps if t is not found)
        return found
    (found,) = matching(things, phrase)
    return found


def offset(thing, word, other):
    axis = 0 if word in ("left of", "right of") else 1
    sign = 1 if word in ("right of", "below") else -1
    places = [(t.x, t.y)[axis] for t in (thing, other)]
    return sign * (places[0] - places[1])


def solve(things, text):
    text = text.removesuffix("?")
    truth = {True: "yes", False: "no"}
    if match := re.search("(?:How many|What number of) (.*?) (?:are|can|does)", text):
        return str(len(matching(things, match[1])))
    if match := re.search("(?:colour|shape).* the (object .* the .*)$", text):
        phrase = re.sub(" have$", "", match[1])
        return getattr(only(things, phrase), re.search("colour|shape", text)[0])
    if match := re.match("(?:What|Which).*?(colour|shape).*? the (.*)$", text):
        phrase = re.sub("^(?:colour|shape) of the | have$", "", match[2])
        return getattr(only(things, phrase), match[1])
    if match := re.search("(more|fewer) (.*) than (.*)", text):
        first, second = (len(matching(things, match[i])) for i in (2, 3))
        assert first != second
        return truth[first > second if match[1] == "more" else first < second]
    if match := re.match("Is the (.*) (larger|smaller) than the (.*)", text):
        first, second = only(things, match[1]).size, only(things, match[3]).size
        assert first != second
        return truth[first == ("large" if match[2] == "larger" else "small")]
    if match := re.match(f"(?:Is|Does) the (.*?)(?: lie)? {RELATION} the (.*)", text):
        gap = offset(only(things, match[1]), match[2], only(things, match[3]))
        assert abs(gap) >= 0.15
        return truth[gap > 0]
    if match := re.search(
        "(?:there|see|show)(?: both| either)? (.*) (and|or) (.*)", text
    ):
        held = [bool(matching(things, match[i])) for i in (1, 3)]
        return truth[all(held) if match[2] == "and" else any(held)]
    match = re.match("(?:Is there|Can you see|Does the picture show) (.*)", text)
    return truth[bool(matching(things, match[1].removesuffix(" in the picture")))]


def test_every_answer_is_what_the_scene_shows(questions):
    assert {question.question_type for _, question in questions} == set(KINDS)
    for things, question in questions:
        truth = Counter(question.answers).most_common(1)[0][0]
        assert solve(things, question.question) == truth, question.question


def truths(questions, kind):
    for _, question in questions:
        if question.question_type == kind:
            yield question.question, Counter(question.answers).most_common(1)[0][0]


@pytest.mark.parametrize("kind", ["exist", "relation", "compare", "and/or"])
def test_yes_and_no_are_as_frequent(questions, kind):
    answers = [truth for _, truth in truths(questions, kind)]
    assert answers.count("yes") / len(answers) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("kind", ["colour", "shape"])
def test_no_colour_or_shape_is_the_usual_answer(questions, kind):
    answers = Counter(truth for _, truth in truths(questions, kind))
    assert len(answers) == 8
    assert max(answers.values()) / answers.total() < 0.2


def test_counts_are_spread(questions):
    answers = Counter(truth for _, truth in truths(questions, "count"))
    assert set(answers) == set("0123456")
    assert max(answers.values()) / answers.total() < 0.3


def test_no_word_of_a_yes_no_question_tells_its_answer(questions):
    by_word = defaultdict(Counter)
    for kind in ("exist", "relation", "compare", "and/or"):
        for text, truth in truths(questions, kind):
            for word in set(text.split()):
                by_word[kind, word][truth] += 1
    for word, answers in by_word.items():
        if answers.total() >= 150:
            assert answers["yes"] / answers.total() == pytest.approx(0.5, abs=0.14), (
                word
            )


def test_held_out_pairs_are_asked_about_in_their_own_split_alone():
    pattern = re.compile("|".join(f"{colour} {shape}" for shape, colour in HELD_OUT))
    named = {
        split: Counter(
            Counter(question.answers).most_common(1)[0][0]
            for _, question in asked(split)
            if pattern.search(question.question) and question.question_type == "exist"
        )
        for split in SPLITS
    }
    assert not named["train"]
    both = named["compositional"]
    assert both.total() > 80
    assert both["yes"] / both.total() == pytest.approx(0.5, abs=0.14)


def test_a_scene_asks_as_many_different_questions_as_wanted():
    for many in (0, 1, 10, 32):
        source = Scenes(size=100, questions_per_image=many)
        for index in range(100):
            texts = [q.question for q in source._questions(source.scene(index), index)]
            assert len(texts) == len(set(texts)) == many

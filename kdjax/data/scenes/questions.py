"""What is asked about a scene: seven types of question, each with one true answer.

Questions are paired so that neither a type nor a wording gives its answer away: a "no"
differs from some "yes" in one attribute that is as likely to take any value, and a
comparison or relation is asked in either order by the toss of a coin. What has no clear
answer (a circle among two, a barely lower square) is not asked.
"""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from kdjax.data.scenes.chance import Dice
from kdjax.data.scenes.language import Description, a, descriptions, noun
from kdjax.data.scenes.world import (
    COLOURS,
    HELD_OUT,
    OPPOSITE,
    SEEN,
    SHAPES,
    Scene,
    Thing,
    clearly_not,
    relations,
)

YES_NO = ("no", "yes")
_OF_COLOUR = tuple(Description(colour=colour) for colour in COLOURS)
_OF_SHAPE = tuple(Description(shape=shape) for shape in SHAPES)


class Asked(NamedTuple):
    """A question with its truth.

    Attributes:
        text: the question.
        kind: one of `KINDS`.
        truth: the true answer.
        difficulty: probability that an annotator gets it wrong.
    """

    text: str
    kind: str
    truth: str
    difficulty: float


class Facts:
    """What a scene's questions are made from, worked out once.

    Attributes:
        things: the scene's things.
        true: for each thing, the descriptions that are true of it.
        counts: of how many things each description is true.
        unique: for each thing, the descriptions that are true of it alone.
    """

    def __init__(self, scene: Scene) -> None:
        self.things = scene.things
        self.true = [descriptions(thing) for thing in scene.things]
        self.counts = Counter(chain.from_iterable(self.true))
        counts = self.counts
        self.unique = [[d for d in each if counts[d] == 1] for each in self.true]
        self._hiding: dict[str, list[tuple[Thing, list[Description]]]] = {}

    @cached_property
    def by_count(self) -> dict[int, list[Description]]:
        """The descriptions of at most two attributes, by how many things they fit."""
        found: dict[int, list[Description]] = {}
        for description, many in self.counts.items():
            left_out = description.count(None)
            # Size alone is no use: there is no scene with more than three large things.
            if left_out == 2 or (left_out > 2 and description.size is None):
                found.setdefault(many, []).append(description)
        return found

    def hiding(self, attribute: str) -> list[tuple[Thing, list[Description]]]:
        """The things that are named alone by what does not tell the attribute."""
        if attribute not in self._hiding:
            place = Description._fields.index(attribute)
            self._hiding[attribute] = [
                (thing, options)
                for thing, unique in zip(self.things, self.unique, strict=True)
                if (options := [d for d in unique if d[place] is None])
            ]
        return self._hiding[attribute]

    @cached_property
    def named(self) -> list[int]:
        """The places of the things that some description is true of alone."""
        return [place for place, options in enumerate(self.unique) if options]


def _short(true: tuple[Description, ...]) -> tuple[Description, ...]:
    # The order of the sixteen counts in binary, a bit for each attribute; as in
    # `by_count`, size alone is left out, which is the eighth.
    return true[:7] + true[9:11] + true[12:13]


def _kind_named(true: tuple[Description, ...]) -> list[Description]:
    return [d for d in true if d.colour or d.shape]


Maker = Callable[[Facts, Dice, bool], Asked | None]


def ask(scene: Scene, dice: Dice, many: int) -> list[Asked]:
    """Ask up to `many` different questions, turning over the types that a scene allows.

    A type that the scene cannot serve is passed over. Fewer than `many` questions come
    back only if the scene has no more to offer, which up to 32 it always had.
    """
    facts = Facts(scene)
    asked: dict[str, Asked] = {}
    makers = dice.shuffled(list(_MAKERS.values()))
    for turn in range(8 * many):
        question = _fresh(makers[turn % len(makers)], facts, dice, asked)
        if question is not None:
            asked[question.text] = question
        if len(asked) == many:
            break
    return list(asked.values())


def _fresh(
    maker: Maker, facts: Facts, dice: Dice, asked: dict[str, Asked]
) -> Asked | None:
    # The coin is tossed once: a repeated question is drawn again with the same answer
    # in view, or the answer with fewer wordings would be rarer.
    yes = dice.chance(0.5)
    for _ in range(6):
        question = maker(facts, dice, yes)
        if question is None or question.text not in asked:
            return question
    return None


def _exist(facts: Facts, dice: Dice, yes: bool) -> Asked:
    present = dice.pick(_kind_named(dice.pick(facts.true)))
    subject = a(present if yes else _absent(present, facts, dice))
    text = dice.pick(
        (
            "Is there {}?",
            "Is there {} in the picture?",
            "Can you see {}?",
            "Does the picture show {}?",
        )
    )
    return Asked(text.format(subject), "exist", YES_NO[yes], 0.02)


def _count(facts: Facts, dice: Dice, yes: bool) -> Asked:
    # Nothing is counted as none in words of the same form as what is there.
    named = _kind_named(_short(dice.pick(facts.true)))
    described = {**facts.by_count, 0: [_absent(dice.pick(named), facts, dice)]}
    numbers = sorted(described)
    # Large counts are rare in the scenes, so they are asked for where they exist.
    many = dice.weighted(numbers, [_COUNT_WEIGHTS[number] for number in numbers])
    subject = noun(dice.pick(described[many]), plural=True)
    text = dice.pick(
        (
            "How many {} are there?",
            "How many {} can you see?",
            "What number of {} does the picture show?",
        )
    )
    return Asked(text.format(subject), "count", str(many), 0.01 + 0.03 * many)


def _colour(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    named = _point_out(facts, dice, "colour")
    if named is None:
        return None
    thing, subject, difficulty = named
    text = dice.pick(
        (
            "What colour is the {}?",
            "What is the colour of the {}?",
            "Which colour does the {} have?",
        )
    )
    return Asked(text.format(subject), "colour", thing.colour, difficulty)


def _shape(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    named = _point_out(facts, dice, "shape")
    if named is None:
        return None
    thing, subject, difficulty = named
    text = dice.pick(
        (
            "What shape is the {}?",
            "What is the shape of the {}?",
            "Which shape does the {} have?",
        )
    )
    return Asked(text.format(subject), "shape", thing.shape, difficulty)


def _relation(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    if len(facts.named) < 2:
        return None
    place, other = dice.shuffled(facts.named)[:2]
    words = relations(facts.things[place], facts.things[other])
    if not words:
        return None
    word = dice.pick(words)
    first = noun(_shorter(facts.unique[place], dice))
    second = noun(_shorter(facts.unique[other], dice))
    word = word if yes else OPPOSITE[word]
    text = dice.pick(("Is the {} {} the {}?", "Does the {} lie {} the {}?"))
    return Asked(text.format(first, word, second), "relation", YES_NO[yes], 0.05)


def _compare(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    if len(facts.things) == 1:
        return None
    sizes = _compare_sizes(facts, dice, yes) if dice.chance(0.5) else None
    return sizes or _compare_numbers(facts, dice, yes)


def _compare_sizes(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    large, small = (
        [options for thing, options in facts.hiding("size") if thing.size == size]
        for size in ("large", "small")
    )
    if not large or not small:
        return None
    greater = noun(_shorter(dice.pick(large), dice))
    lesser = noun(_shorter(dice.pick(small), dice))
    word, order = dice.pick(
        (("larger", (greater, lesser)), ("smaller", (lesser, greater)))
    )
    first, second = order if yes else order[::-1]
    return Asked(
        f"Is the {first} {word} than the {second}?", "compare", YES_NO[yes], 0.05
    )


def _compare_numbers(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    options = _OF_SHAPE if dice.chance(0.5) else _OF_COLOUR
    present = [d for d in options if d in facts.counts]
    greater = dice.pick(present)
    fewer = [d for d in present if facts.counts[d] != facts.counts[greater]]
    lesser = dice.pick(fewer or [d for d in options if d not in present])
    if facts.counts[greater] < facts.counts[lesser]:
        greater, lesser = lesser, greater
    word, order = dice.pick((("more", (greater, lesser)), ("fewer", (lesser, greater))))
    first, second = (noun(d, plural=True) for d in (order if yes else order[::-1]))
    text = dice.pick(("Are there {} {} than {}?", "Can you see {} {} than {}?"))
    return Asked(text.format(word, first, second), "compare", YES_NO[yes], 0.06)


def _logic(facts: Facts, dice: Dice, yes: bool) -> Asked | None:
    present = sorted({Description(None, None, t.colour, t.shape) for t in facts.things})
    if len(present) == 1:
        return None
    both = dice.chance(0.5)
    # "and" fails and "or" holds mostly by one of the two, which keeps the other honest.
    one = dice.pick(((True, False), (False, True)))
    holds = one if yes != both else (yes, yes)
    pair = dice.shuffled(present)[:2]
    first, second = (
        d if held else _absent(d, facts, dice)
        for d, held in zip(pair, holds, strict=True)
    )
    if first == second:
        return None
    opening = dice.pick(("Is there", "Can you see", "Does the picture show"))
    either = dice.pick(("", " both" if both else " either"))
    text = f"{opening}{either} {a(first)} {'and' if both else 'or'} {a(second)}?"
    return Asked(text, "and/or", YES_NO[yes], 0.06)


def _absent(present: Description, facts: Facts, dice: Dice) -> Description:
    # Held-out pairs are exchanged for held-out ones and seen for seen: otherwise their
    # very mention would tell the answer, and training would say that they never occur.
    while True:
        changed = _altered(present, dice)
        if changed not in facts.counts:
            return changed


def _altered(present: Description, dice: Dice) -> Description:
    if present.colour is None:
        return present._replace(shape=dice.pick(SHAPES))
    if present.shape is None:
        return present._replace(colour=dice.pick(COLOURS))
    pair = present.shape, present.colour
    held_out = pair in HELD_OUT
    shape, colour = dice.pick(HELD_OUT if held_out else SEEN)
    near = dice.pick(((shape, present.colour), (present.shape, colour)))
    if not held_out and near not in HELD_OUT:
        shape, colour = near
    return present._replace(shape=shape, colour=colour)


def _point_out(
    facts: Facts, dice: Dice, hidden: str
) -> tuple[Thing, str, float] | None:
    # Most are named by their own attributes, some by where they lie.
    if dice.chance(0.3):
        placed = _by_place(facts, dice)
        if placed is not None:
            return *placed, 0.09
    named = facts.hiding(hidden)
    if not named:
        return None
    thing, options = dice.pick(named)
    return thing, noun(_shorter(options, dice)), 0.04


def _by_place(facts: Facts, dice: Dice) -> tuple[Thing, str] | None:
    if len(facts.things) == 1 or not facts.named:
        return None
    place = dice.pick(facts.named)
    anchor, relation = facts.things[place], dice.pick(tuple(OPPOSITE))
    others = [thing for thing in facts.things if thing is not anchor]
    found = [thing for thing in others if relation in relations(thing, anchor)]
    rest = [thing for thing in others if clearly_not(thing, relation, anchor)]
    if len(found) != 1 or len(rest) != len(others) - 1:
        return None
    name = noun(_shorter(facts.unique[place], dice))
    return found[0], f"object {relation} the {name}"


def _shorter(options: list[Description], dice: Dice) -> Description:
    # The shorter of two: people name a thing by little more than sets it apart.
    first, second = dice.pick(options), dice.pick(options)
    return second if second.count(None) > first.count(None) else first


_COUNT_WEIGHTS = (0.5, 0.5, 0.9, 1.6, 2.0, 2.0, 2.0)
_MAKERS: dict[str, Maker] = {
    "exist": _exist,
    "count": _count,
    "colour": _colour,
    "shape": _shape,
    "relation": _relation,
    "compare": _compare,
    "and/or": _logic,
}
KINDS = tuple(_MAKERS)

"""How a scene is put into words: noun phrases and captions."""

from collections import Counter
from functools import cache
from itertools import product
from typing import NamedTuple

from kdjax.data.scenes.chance import Dice
from kdjax.data.scenes.world import Scene, Thing, relations

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")


class Description(NamedTuple):
    """The attributes by which a thing is named; None where one is left out."""

    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None


def descriptions(thing: Thing) -> tuple[Description, ...]:
    """List all sixteen descriptions that are true of a thing, "object" first."""
    return _descriptions(thing.size, thing.texture, thing.colour, thing.shape)


@cache
def _descriptions(*attributes: str) -> tuple[Description, ...]:
    options = product(*((None, attribute) for attribute in attributes))
    return tuple(Description(*option) for option in options)


@cache
def noun(description: Description, *, plural: bool = False) -> str:
    """Return the noun phrase without an article: "small striped red circle"."""
    *adjectives, shape = description
    head = shape or "object"
    if plural:
        head = "crosses" if head == "cross" else head + "s"
    return " ".join([*filter(None, adjectives), head])


@cache
def a(description: Description) -> str:
    """Return the noun phrase with its indefinite article: "an orange star"."""
    words = noun(description)
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def captions(scene: Scene, dice: Dice) -> tuple[str, ...]:
    """Say what a scene shows, in five ways from terse to detailed; all are true."""
    return (
        _listing(scene, dice, textured=False),
        _listing(scene, dice, textured=True),
        _tally(scene, dice),
        _close_up(scene, dice),
        _arrangement(scene, dice),
    )


def class_prompt(shape: str, colour: str) -> str:
    """Return the zero-shot caption of a (shape, colour) pair: "a red circle"."""
    return a(Description(colour=colour, shape=shape))


def _listing(scene: Scene, dice: Dice, *, textured: bool) -> str:
    sized = textured or dice.chance(0.5)
    phrases = [
        a(
            Description(
                thing.size if sized else None,
                thing.texture if textured else None,
                thing.colour,
                thing.shape,
            )
        )
        for thing in dice.shuffled(scene.things)
    ]
    opening = dice.pick(("", "", "a picture of ", "there is ", "an image showing "))
    return opening + _series(phrases)


def _tally(scene: Scene, dice: Dice) -> str:
    groups = Counter(Description(None, None, t.colour, t.shape) for t in scene.things)
    phrases = [
        a(group) if many == 1 else f"{NUMBER_WORDS[many]} {noun(group, plural=True)}"
        for group, many in groups.items()
    ]
    total = len(scene.things)
    count = f"{NUMBER_WORDS[total]} object{'s' * (total > 1)}"
    opening = dice.pick(("", f"{count}: ", f"a picture with {count}: "))
    return opening + _series(dice.shuffled(phrases))


def _close_up(scene: Scene, dice: Dice) -> str:
    thing = dice.pick(scene.things)
    subject = a(dice.pick([d for d in descriptions(thing) if d.colour and d.shape]))
    place = dice.pick(("{} {}", "{} is {}", "there is {} {}"))
    return place.format(subject, where(thing))


def where(thing: Thing) -> str:
    """Say in which of the image's nine fields a thing lies: "at the top left"."""
    row = ("top", "", "bottom")[int(thing.y * 3)]
    column = ("left", "", "right")[int(thing.x * 3)]
    if not row and not column:
        return "in the middle"
    if not row:
        return f"on the {column}"
    return f"at the {row} {column}".rstrip()


def _arrangement(scene: Scene, dice: Dice) -> str:
    for thing in dice.shuffled(scene.things):
        for other in dice.shuffled(scene.things):
            words = relations(thing, other)
            if words:
                ends = [_named(thing, dice), _named(other, dice)]
                link = dice.pick((" ", " ", " is "))
                return f"{ends[0]}{link}{dice.pick(words)} {ends[1]}"
    return _close_up(scene, dice)


def _named(thing: Thing, dice: Dice) -> str:
    texture = thing.texture if dice.chance(0.3) else None
    size = thing.size if dice.chance(0.6) else None
    return a(Description(size, texture, thing.colour, thing.shape))


def _series(phrases: list[str]) -> str:
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last

"""What ten annotators answer: mostly the truth, and sometimes what is near it."""

from bisect import bisect_right
from functools import cache

from kdjax.data.scenes.chance import Dice
from kdjax.data.scenes.questions import YES_NO, Asked
from kdjax.data.scenes.world import COLOURS, MAX_THINGS, SHAPES

NUMBERS = tuple(str(number) for number in range(MAX_THINGS + 1))
ANSWERS = ("yes", "no", *NUMBERS, *COLOURS, *SHAPES)

_ANNOTATORS = 10
# With at most four wrong, the truth is always what most of the ten say.
_MAX_WRONG = 4
_CONFUSED = {
    "red": ("orange", "pink"),
    "orange": ("red", "yellow"),
    "yellow": ("orange",),
    "green": ("cyan",),
    "cyan": ("blue", "green"),
    "blue": ("purple", "cyan"),
    "purple": ("blue", "pink"),
    "pink": ("purple", "red"),
    "circle": ("moon", "heart"),
    "square": ("diamond",),
    "triangle": ("diamond", "star"),
    "diamond": ("square",),
    "star": ("cross", "triangle"),
    "cross": ("star",),
    "heart": ("circle",),
    "moon": ("circle",),
}


def answer_type(truth: str) -> str:
    """Return VQAv2's type of an answer: "yes/no", "number" or "other"."""
    if truth in YES_NO:
        return "yes/no"
    return "number" if truth in NUMBERS else "other"


def annotate(asked: Asked, dice: Dice) -> tuple[str, ...]:
    """Answer a question ten times; each answer is wrong with its difficulty."""
    within = _error_within(asked.difficulty)
    answers = [asked.truth] * _ANNOTATORS
    # One draw says how many get it right before the next who does not.
    place = bisect_right(within, dice.uniform())
    for _ in range(_MAX_WRONG):
        if place >= _ANNOTATORS:
            break
        answers[place] = dice.pick(_near(asked.truth))
        place += 1 + bisect_right(within, dice.uniform())
    return tuple(answers)


@cache
def _error_within(difficulty: float) -> tuple[float, ...]:
    # The probability that one of the first annotators errs: the first one, two, ...
    return tuple(1 - (1 - difficulty) ** many for many in range(1, _ANNOTATORS + 1))


@cache
def _near(truth: str) -> tuple[str, ...]:
    if truth in YES_NO:
        return tuple(word for word in YES_NO if word != truth)
    if truth in NUMBERS:
        number = int(truth)
        return tuple(str(n) for n in (number - 1, number + 1) if 0 <= n <= MAX_THINGS)
    return _CONFUSED[truth]

"""What ten annotators answer: mostly the truth, and sometimes what is near it."""

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
    wrong = _near(asked.truth)
    answers, errors = [], 0
    for _ in range(_ANNOTATORS):
        errs = dice.chance(asked.difficulty) and errors < _MAX_WRONG
        errors += errs
        answers.append(dice.pick(wrong) if errs else asked.truth)
    return tuple(answers)


def _near(truth: str) -> tuple[str, ...]:
    if truth in YES_NO:
        return tuple(word for word in YES_NO if word != truth)
    if truth in NUMBERS:
        number = int(truth)
        return tuple(str(n) for n in (number - 1, number + 1) if 0 <= n <= MAX_THINGS)
    return _CONFUSED[truth]

"""The evaluators that a config may name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdjax.errors import UserError
from kdjax.evaluation.answering import score_vqa
from kdjax.evaluation.subject import Scores, Subject
from kdjax.evaluation.zero_shot import score_zero_shot
from kdjax.models import Params

Kind = Literal["clip", "vqa"]


@dataclass(frozen=True)
class Evaluator:
    """An evaluator.

    Attributes:
        of: the kind of models that it scores.
        number: the name of what it says of them, in percent.
        score: (parameters, subject) -> scores; the parameters may be sharded.
    """

    of: Kind
    number: str
    score: Callable[[Params, Subject], Scores]


EVALUATORS: dict[str, Evaluator] = {
    "zero_shot": Evaluator("clip", "zero_shot_accuracy", score_zero_shot),
    "vqa": Evaluator("vqa", "vqa_accuracy", score_vqa),
}


def evaluators_of(kind: Kind) -> tuple[str, ...]:
    """Return the names of those that score a kind of models."""
    return tuple(name for name, each in EVALUATORS.items() if each.of == kind)


def check_evaluators(names: Any, kind: Kind) -> None:
    """Check that there are such evaluators of a kind of models, and at least one.

    Raises:
        UserError: there are not.
    """
    known = evaluators_of(kind)
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not names or any(name not in known for name in names):
        given = list(names) if listed else names
        raise UserError(
            f"eval.evaluators is {given!r}; give a tuple of some of: {', '.join(known)}"
        )


def evaluate(names: Sequence[str], params: Params, subject: Subject) -> Scores:
    """Return what evaluators say of a model together."""
    said = [EVALUATORS[name].score(params, subject) for name in names]
    return Scores(
        {key: value for one in said for key, value in one.results.items()},
        {key: answer for one in said for key, answer in one.predictions.items()},
    )

"""Test images on which models disagree, to look at."""

from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.data.records import Question, Source
from kdjax.study.result import Example, RunRow

COUNT = 6

Said = tuple[RunRow, Mapping[int, str], Mapping[int, float]]


def choose_examples(source: Source, scored: Sequence[Said]) -> tuple[Example, ...]:
    """Return images with the question on which models disagree the most.

    The question types take turns, and no image comes twice; ties go to the first.

    Args:
        source: of the scored split.
        scored: (row, answers by question id, accuracies by question id) of every run;
            of a student's seeds the first is shown.
    """
    shown = {row.name: (said, right) for row, said, right in reversed(scored)}
    asked = [(i, q) for i in range(len(source)) for q in source[i].questions]

    def disagreement(question: Question) -> float:
        rights = [right[question.question_id] for _, _, right in scored]
        return float(np.var(rights))

    ranked = sorted(asked, key=lambda pair: -disagreement(pair[1]))
    chosen: dict[int, Question] = {}
    while len(chosen) < min(COUNT, len(source)):
        types: set[str] = set()
        for index, question in ranked:
            fresh = index not in chosen and question.question_type not in types
            if fresh and len(chosen) < COUNT:
                chosen[index] = question
                types.add(question.question_type)
        if not types:
            break
    names = [row.name for row, _, _ in scored]
    order = list(dict.fromkeys(names))
    return tuple(
        Example(
            image=source[index].image,
            question=question.question,
            truth=max(question.answers, key=question.answers.count),
            said=tuple(
                (
                    name,
                    shown[name][0][question.question_id],
                    shown[name][1][question.question_id],
                )
                for name in order
            ),
        )
        for index, question in chosen.items()
    )

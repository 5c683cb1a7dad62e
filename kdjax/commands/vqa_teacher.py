"""A teacher of answers made ready: its weights, and its answers as the student's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from kdjax.commands.compute import Compute
from kdjax.commands.names import run_of
from kdjax.commands.vqa_model import NamedVQAModel, open_vqa_model
from kdjax.data.tokenizer import Tokenizer
from kdjax.errors import UserError
from kdjax.models import Params, VQAConfig, VQAModel, abstract_of
from kdjax.objectives import needing_teacher
from kdjax.parallel import parameter_shardings


@dataclass(frozen=True)
class TaughtAnswers:
    """What a VQA run needs of its teacher.

    Attributes:
        config: of the teacher, whose answers are the student's; None where there is
            none.
        params: its weights, on the mesh; the tower's are not there where its tokens
            are held.
        tokenizers: of the questions that it reads, with their length, by model name.
    """

    config: VQAConfig | None = None
    params: Params | None = None
    tokenizers: Mapping[str, tuple[Tokenizer, int]] = field(default_factory=dict)

    @property
    def towers(self) -> dict[str, tuple[Params, VQAConfig]]:
        """Its vision tower's weights with its config, by model name."""
        if self.config is None or self.params is None:
            return {}
        return {"teacher": (self.params["vision"], self.config)}

    def without_tower(self) -> "TaughtAnswers":
        """Return the same without its vision tower's weights."""
        params = self.params
        if params is None:
            return self
        return replace(self, params={k: params[k] for k in params if k != "vision"})


NO_TEACHER = TaughtAnswers()


def check_taught(objectives: Mapping[str, Any] | str, teacher: str) -> None:
    """Check that there is a teacher if and only if an objective learns from it.

    Raises:
        UserError: there is one of the two alone.
    """
    needing = needing_teacher(objectives)
    if needing and not teacher:
        raise UserError(
            f"objective {needing[0]} needs a teacher: name a finished run of vqa as "
            f"teacher, or leave {needing[0]} out"
        )
    if teacher and not needing:
        raise UserError(
            f"the teacher is {teacher!r} and no objective learns from it: add one, "
            "such as hinton, or set teacher to ''"
        )


def open_teacher(
    name: str,
    workdir: epath.Path,
    compute: Compute,
    answers: Sequence[str],
    mesh: Mesh,
) -> TaughtAnswers:
    """Return the teacher that a config names, or what stands for none.

    Args:
        name: a finished run of `kdjax vqa`, or nothing.
        workdir: of the run that asks.
        compute: how the teacher computes, and over what it is split.
        answers: the student's, in its order.
        mesh: where the weights go.

    Raises:
        UserError: it is no such run, or there are answers that it does not know.
    """
    if not name:
        return NO_TEACHER
    run = run_of(name, workdir)
    model = None if run is None else open_vqa_model(run, compute)
    if model is None:
        raise UserError(
            f"the teacher {name!r} is no finished run of vqa: name the workdir of one"
        )
    config = replace(model.config, num_answers=len(answers))
    params = _with_answers(name, model, answers)
    shardings = parameter_shardings(abstract_of(VQAModel, config), mesh, compute.over)
    return TaughtAnswers(
        config,
        jax.device_put(params, shardings),
        {"teacher": (model.tokenizer, config.question_length)},
    )


def _with_answers(name: str, model: NamedVQAModel, answers: Sequence[str]) -> Params:
    """Return a model's weights with the answers of another, in its order."""
    unknown = [answer for answer in answers if answer not in model.answers]
    if unknown:
        raise UserError(
            f"the teacher {name!r} does not know {len(unknown)} of the student's "
            f"{len(answers)} answers, such as {unknown[0]!r}: name a run on data that "
            "has them"
        )
    place = {answer: at for at, answer in enumerate(model.answers)}
    chosen = np.array([place[answer] for answer in answers])
    head = {key: value[..., chosen] for key, value in model.params["head"].items()}
    return {**model.params, "head": head}

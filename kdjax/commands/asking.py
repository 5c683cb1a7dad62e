"""What `kdjax vqa` has trained, asked from Python."""

import os
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, overload

import numpy as np
from jaxtyping import Float32, Int32

from kdjax.commands.compute import Compute
from kdjax.commands.vqa_model import (
    VQA_CONFIG,
    VQA_WEIGHTS,
    NamedVQAModel,
    load_vqa_model,
)
from kdjax.data.loader import MID_GREY
from kdjax.data.processor import One, Processor
from kdjax.errors import UserError
from kdjax.evaluation.answering import likely_answers
from kdjax.hub import ABOUT, find_model

Many: TypeAlias = list[str] | tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class VQA:
    """Answers questions about images.

    Attributes:
        model: that answers.
        processor: of the pixels and the ids that it takes.
    """

    model: NamedVQAModel
    processor: Processor

    @property
    def answers(self) -> tuple[str, ...]:
        """All that it can say."""
        return self.model.answers

    @overload
    def answer(self, image: One | np.ndarray, questions: str) -> str: ...

    @overload
    def answer(self, image: One | np.ndarray, questions: Many) -> list[str]: ...

    def answer(self, image: One | np.ndarray, questions: str | Many) -> str | list[str]:
        """Return the answer to a question about an image, or those to several.

        Args:
            image: a file (see `open_image`), a PIL image, or a uint8 array [H, W, 3].
            questions: one, or many.

        Raises:
            UserError: it is no image, there are several, or a question is no text.
        """
        many = isinstance(questions, list | tuple)
        asked: list[Any] = list(questions) if many else [questions]
        for question in asked:
            if not isinstance(question, str):
                raise UserError(
                    f"{question!r} is no question: give a text, or several of them"
                )
        pixels = self.processor.images(image)
        if len(pixels) != 1:
            raise UserError(f"there are {len(pixels)} images: ask about one at a time")
        if self.model.blank:  # it never saw another one
            pixels = self.processor.images(np.full((1, 1, 3), MID_GREY, np.uint8))
        said = self._said(pixels, self.processor.texts(asked))
        return said if many else said[0]

    def _said(
        self, pixels: Float32[np.ndarray, "1 S S 3"], ids: Int32[np.ndarray, "Q L"]
    ) -> list[str]:
        """Return answers, asked for so many at once that one program serves all."""
        model, count = self.model, self.model.questions_per_image
        said: list[str] = []
        for start in range(0, len(ids), count):
            part = ids[start : start + count]
            asked = np.full((1, count, ids.shape[1]), model.config.pad_id, np.int32)
            asked[0, : len(part)] = part
            best = likely_answers(model.params, pixels, asked, config=model.config)
            said += [model.answers[i] for i in np.asarray(best)[0, : len(part)]]
        return said


def load_vqa(name_or_directory: str | os.PathLike[str]) -> VQA:
    """Return the model of a finished run of `kdjax vqa`; it computes in float32.

    Args:
        name_or_directory: the workdir of the run, the folder of its model wherever it
            lies, or its name on the hub.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    name = os.fspath(name_or_directory)
    directory = find_model(name, (*ABOUT, VQA_WEIGHTS))
    if not (directory / VQA_CONFIG).exists():
        raise UserError(
            f"there is no model in {name!r} that answers questions: name the workdir "
            "of a run of kdjax vqa, and let it finish"
        )
    model = load_vqa_model(directory, Compute("float32", "xla"))
    processor = Processor(
        **asdict(model.config.vision.preprocessing),
        tokenizer=model.tokenizer,
        context_length=model.config.question_length,
    )
    return VQA(model, processor)

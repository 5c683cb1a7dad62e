"""What every data source yields."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, slots=True)
class Question:
    """One question about an image, with its annotators' answers.

    Attributes:
        question_id: unique over all splits of the source.
        question: the text as asked.
        question_type: what is asked, for accuracy by type ("count", "what color").
        answer_type: "yes/no", "number" or "other", as in VQAv2.
        answers: what each annotator said, ten in VQAv2's protocol.
    """

    question_id: int
    question: str
    question_type: str
    answer_type: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One image with all that is said and asked about it.

    Attributes:
        image_id: unique over all splits of the source.
        image: [H, W, 3] uint8 RGB.
        captions: paraphrases; training picks one at random each time.
        questions: in a fixed order; may be empty.
        label: index into the source's `class_prompts`, or -1 where unknown.
    """

    image_id: int
    image: UInt8[np.ndarray, "H W 3"]
    captions: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    label: int = -1


@runtime_checkable
class Source(Protocol):
    """A random-access sequence of records.

    Attributes:
        name: the registered name.
        split: "train", "validation", "test" or one of the source's own.
        answers: the answer vocabulary, the same for all splits.
        class_prompts: one caption for each zero-shot class, the same for all splits.
    """

    name: str
    split: str
    answers: Sequence[str]
    class_prompts: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def texts(self, limit: int = 2000) -> Iterator[str]:
        """Yield captions and questions of the first records, for a tokenizer."""
        ...

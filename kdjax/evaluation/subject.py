"""What evaluators are given, and what they give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdjax.data.records import Source
from kdjax.data.tokenizer import Tokenizer
from kdjax.models import CLIPConfig, VQAConfig


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model without its parameters, and what it is scored on.

    Attributes:
        config: of the model.
        tokenizer: of its texts.
        source: a split of a data set.
        answers: of a VQA model, its classes.
        questions_per_image: of a VQA model, those that it is asked at once.
        blank: whether a VQA model sees grey images only.
    """

    config: CLIPConfig | VQAConfig
    tokenizer: Tokenizer
    source: Source
    answers: Sequence[str] = ()
    questions_per_image: int = 1
    blank: bool = False


@dataclass(frozen=True)
class Scores:
    """What an evaluator says.

    Attributes:
        results: numbers by name, None where there is none, and mappings of numbers.
        predictions: what the model said, by question id.
    """

    results: Mapping[str, Any]
    predictions: Mapping[int, str] = field(default_factory=dict)

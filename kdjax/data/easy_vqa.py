"""Easy-VQA: one coloured shape on an image and questions about it, from PyPI."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kdjax.data.records import Question, Record
from kdjax.errors import UserError

COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
SPLITS = ("train", "validation", "test")
VALIDATION_SIZE = 400
# The package counts images and questions of its two parts from 0 each.
TEST_ID_OFFSET = 100_000

_Asked = tuple[int, str, str]  # question id, question, answer


class EasyVQA:
    """The PyPI package `easy-vqa` as a source of 64x64 images, questions and captions.

    The package's 4,000 training images become "train" (3,600) and "validation" (400);
    "test" (1,000) is the package's own. Captions say only what follows from the
    image's own questions and answers.

    Args:
        split: "train", "validation" or "test".
        seed: draws the validation images out of the package's training part.

    Raises:
        UserError: the package is not installed, or the split is unknown.
    """

    name = "easy_vqa"
    answers: Sequence[str] = tuple(sorted((*COLORS, *SHAPES, "no", "yes")))
    class_prompts: Sequence[str] = tuple(f"a {c} {s}" for c in COLORS for s in SHAPES)

    def __init__(self, split: str = "train", *, seed: int = 0) -> None:
        if split not in SPLITS:
            raise UserError(
                f"easy_vqa has no split {split!r}: choose one of {', '.join(SPLITS)}"
            )
        self.split = split
        part: Literal["train", "test"] = "test" if split == "test" else "train"
        folder = _package_folder() / "data" / part
        offset = TEST_ID_OFFSET if part == "test" else 0
        asked = _read_questions(folder / "questions.json", offset)
        chosen = _chosen_images(sorted(asked), split, seed)
        self._images = _read_images([folder / "images" / f"{i}.png" for i in chosen])
        self._records = [
            _record(offset + i, image, asked[i])
            for i, image in zip(chosen, self._images, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {self!r}")
        return self._records[index]

    def __repr__(self) -> str:
        return f"EasyVQA({self.split!r}, {len(self)} images)"

    def texts(self, limit: int = 2000) -> Iterator[str]:
        """Yield up to `limit` captions and questions, to train a tokenizer on."""
        return (text for text, _ in zip(self._all_texts(), range(limit), strict=False))

    def _all_texts(self) -> Iterator[str]:
        yield from self.class_prompts
        for record in self._records:
            yield from record.captions
            yield from (question.question for question in record.questions)


def known_facts(
    pairs: Sequence[tuple[str, str]],
) -> tuple[str | None, str | None]:
    """Return the (color, shape) that (question, answer) pairs about one image imply.

    An image holds exactly one shape of one color, so whatever is left when all others
    are denied is implied too. What stays open is None.
    """
    possible = set(COLORS) | set(SHAPES)
    for question, answer in pairs:
        words = question.rstrip("?").split()
        named = (set(words) | {answer}) & possible
        if answer in ("yes", "no"):
            negated = "not" in words or "no" in words
            if (answer == "yes") == negated:
                possible -= named
                continue
        for fact in named:
            kind = COLORS if fact in COLORS else SHAPES
            possible -= set(kind) - {fact}
    return _only(possible.intersection(COLORS)), _only(possible.intersection(SHAPES))


def captions_of(color: str | None, shape: str | None) -> tuple[str, ...]:
    """Return four captions, each of which says all that is known."""
    noun = " ".join((color, shape or "shape") if color else (shape or "shape",))
    return (
        f"a {noun}",
        f"a picture of a {noun}",
        f"there is a {noun}",
        f"the image contains a {noun}",
    )


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _package_folder() -> Path:
    # The package itself is not imported: only its data folder is wanted.
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or spec.origin is None:
        raise UserError(
            "easy_vqa needs the package easy-vqa: run `pip install 'kdjax[data]'`"
        )
    return Path(spec.origin).parent


def _read_questions(path: Path, offset: int) -> dict[int, list[_Asked]]:
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): install easy-vqa again"
        ) from error
    asked: dict[int, list[_Asked]] = {}
    for position, (question, answer, image) in enumerate(entries):
        asked.setdefault(image, []).append((offset + position, question, answer))
    return asked


def _chosen_images(images: list[int], split: str, seed: int) -> list[int]:
    if split == "test":
        return images
    order = np.random.default_rng(seed).permutation(images)
    chosen = (
        order[:VALIDATION_SIZE] if split == "validation" else order[VALIDATION_SIZE:]
    )
    return sorted(chosen.tolist())


def _read_images(paths: Sequence[Path]) -> UInt8[np.ndarray, "N H W 3"]:
    first = _read_image(paths[0])
    images = np.empty((len(paths), *first.shape), np.uint8)
    for row, path in enumerate(paths):
        images[row] = _read_image(path)
    # Records hand out views of this array: nobody may write into them.
    images.flags.writeable = False
    return images


def _read_image(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error}): install easy-vqa again"
        ) from error


def _record(
    image_id: int, image: UInt8[np.ndarray, "H W 3"], asked: Sequence[_Asked]
) -> Record:
    color, shape = known_facts([(question, answer) for _, question, answer in asked])
    known = color is not None and shape is not None
    return Record(
        image_id=image_id,
        image=image,
        captions=captions_of(color, shape),
        questions=tuple(_question(*entry) for entry in asked),
        label=EasyVQA.class_prompts.index(f"a {color} {shape}") if known else -1,
    )


def _question(question_id: int, question: str, answer: str) -> Question:
    words = question.rstrip("?").split()
    if answer in ("yes", "no"):
        negated = "not" in words or "no" in words
        kind, answer_type = ("is there not" if negated else "is there"), "yes/no"
    else:
        kind, answer_type = f"what {'color' if answer in COLORS else 'shape'}", "other"
    return Question(question_id, question, kind, answer_type, (answer,) * 10)

"""Scenes as a source: sample i of a seed and a split, made when it is asked for."""

from collections.abc import Iterator, Sequence
from operator import index as as_index
from typing import SupportsIndex

from kdjax.data.records import Question, Record
from kdjax.data.scenes.annotators import ANSWERS, annotate, answer_type
from kdjax.data.scenes.chance import Dice
from kdjax.data.scenes.drawing import draw
from kdjax.data.scenes.language import captions, class_prompt
from kdjax.data.scenes.questions import ask
from kdjax.data.scenes.world import PAIRS, Scene, sample_scene
from kdjax.errors import UserError

SPLITS = ("train", "validation", "test", "compositional")
MAX_SIZE = 2**31 - 1
MAX_QUESTIONS = 32
_SCENE, _CAPTIONS, _QUESTIONS, _ANSWERS = range(4)


class Scenes:
    """A procedural world of coloured shapes, as a random-access sequence of records.

    Sample i depends on (seed, split, i) alone: not on `size`, on other samples or on
    the host; `image_size` changes the resolution and nothing else. The split
    "compositional" shows at least one held-out (shape, colour) pair in each image;
    the other splits never show or name one. The idea is that of CLEVR (Johnson et al.,
    2017) and ShapeWorld (Kuhnle and Copestake, 2017).

    `image_id` and `question_id` are unique over the splits of one seed and fit in
    64 bits; `size` may be up to 2**31 - 1 and `questions_per_image` up to 32.

    Attributes:
        name: "scenes".
        split: one of "train", "validation", "test", "compositional".
        answers: yes, no, 0 to 6, the eight colours and the eight shapes.
        class_prompts: "a red circle" and so on, for all 64 (colour, shape) pairs; the
            label of a scene with a single object is an index into them.
    """

    name: str = "scenes"
    answers: Sequence[str] = ANSWERS
    class_prompts: Sequence[str] = tuple(class_prompt(*pair) for pair in PAIRS)

    def __init__(
        self,
        split: str = "train",
        *,
        seed: int = 0,
        size: int = 10_000,
        eval_size: int | None = None,
        image_size: int = 64,
        questions_per_image: int = 10,
    ) -> None:
        """Check the choices; nothing is made yet.

        Args:
            split: one of `SPLITS`.
            seed: of everything that is drawn.
            size: the length.
            eval_size: the length of every split but "train"; None for `size`.
            image_size: side of the images in pixels.
            questions_per_image: of every sample.

        Raises:
            UserError: for an unknown split or a number out of its range.
        """
        if split not in SPLITS:
            raise UserError(
                f"scenes has no split {split!r}: choose one of {', '.join(SPLITS)}."
            )
        _check("seed", seed, 0, 2**63 - 1)
        _check("size", size, 1, MAX_SIZE)
        if split != "train" and eval_size is not None:
            _check("eval_size", eval_size, 1, MAX_SIZE)
            size = eval_size
        _check("image_size", image_size, 16, 4096)
        _check("questions_per_image", questions_per_image, 0, MAX_QUESTIONS)
        self.split = split
        self.seed = seed
        self.size = size
        self.image_size = image_size
        self.questions_per_image = questions_per_image

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return (
            f"Scenes({self.split!r}, seed={self.seed}, size={self.size}, "
            f"image_size={self.image_size}, "
            f"questions_per_image={self.questions_per_image})"
        )

    def __getitem__(self, index: SupportsIndex) -> Record:
        """Make sample `index`.

        Raises:
            IndexError: if `index` is negative or not below the length.
        """
        place = self._checked(index)
        dice = self._dice(place)
        scene = self._scene(dice)
        return Record(
            image_id=self._image_id(place),
            image=draw(scene, self.image_size),
            captions=self._captions(scene, dice),
            questions=self._questions(scene, place, dice),
            label=_label(scene),
        )

    def scene(self, index: SupportsIndex) -> Scene:
        """Return the facts behind sample `index`; raises IndexError outside."""
        return self._scene(self._dice(self._checked(index)))

    def texts(self, limit: int = 2000) -> Iterator[str]:
        """Yield up to `limit` captions and questions, to train a tokenizer on."""
        made = 0
        for index in range(self.size):
            dice = self._dice(index)
            scene = self._scene(dice)
            said = self._captions(scene, dice)
            asked = (each.question for each in self._questions(scene, index, dice))
            for text in (*said, *asked):
                if made == limit:
                    return
                yield text
                made += 1

    def _scene(self, dice: Dice) -> Scene:
        return sample_scene(dice, held_out=self.split == "compositional")

    def _captions(self, scene: Scene, dice: Dice) -> tuple[str, ...]:
        dice.turn_to(_CAPTIONS)
        return captions(scene, dice)

    def _questions(
        self, scene: Scene, index: int, dice: Dice | None = None
    ) -> tuple[Question, ...]:
        dice = dice or self._dice(index)
        dice.turn_to(_QUESTIONS)
        asked = ask(scene, dice, self.questions_per_image)
        dice.turn_to(_ANSWERS)
        first = self._image_id(index) * MAX_QUESTIONS
        return tuple(
            Question(
                question_id=first + place,
                question=each.text,
                question_type=each.kind,
                answer_type=answer_type(each.truth),
                answers=annotate(each, dice),
            )
            for place, each in enumerate(asked)
        )

    def _image_id(self, index: int) -> int:
        return SPLITS.index(self.split) * MAX_SIZE + index

    def _dice(self, index: int, stream: int = _SCENE) -> Dice:
        return Dice(self.seed, SPLITS.index(self.split), index, stream)

    def _checked(self, index: SupportsIndex) -> int:
        place = as_index(index)
        if not 0 <= place < self.size:
            raise IndexError(
                f"index {place} is outside {self!r}: expected 0 to {self.size - 1}"
            )
        return place


def _label(scene: Scene) -> int:
    if len(scene.things) > 1:
        return -1
    return PAIRS.index(scene.things[0].pair)


def _check(key: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise UserError(
            f"scenes: {key}={value!r} must be a whole number from {low} to {high}."
        )

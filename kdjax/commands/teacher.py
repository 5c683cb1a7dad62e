"""Teachers made ready: their weights, their logit scales, and their outputs held."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from kdjax.commands.calibration import HELD_OUT, stored_scale, wanted_scales
from kdjax.commands.common import source_of
from kdjax.commands.models import NamedModel, check_ends
from kdjax.data.loader import Images
from kdjax.data.records import Source
from kdjax.data.tokenizer import Tokenizer
from kdjax.embeddings import Wanted
from kdjax.errors import UserError
from kdjax.evaluation.embedding import (
    bytes_of_image,
    embed_images,
    embed_texts,
    see_images,
)
from kdjax.models import CLIPConfig, Params
from kdjax.objectives import match_entropy

# Batches of held-out pairs whose entropy is matched.
CALIBRATION_BATCHES = 8
# All that a step needs of a teacher whose outputs are held.
SCALARS = ("logit_scale", "logit_bias")
# More is not held in memory.
MOST_HELD_GIB = 32
# Of images, held whatever else is.
EMBEDDED: Wanted = (("image", ()),)

Batch = dict[str, Any]


class Teacher:
    """A frozen CLIP model with the tokenizer that it was trained with.

    Attributes:
        name: that the config gives it.
        config: of the model.
        params: its weights.
        tokenizer: of its texts.
        directory: that it was loaded from, or its name on the hub.
    """

    def __init__(self, name: str, model: NamedModel) -> None:
        """Take a model that a config names.

        Raises:
            UserError: it is an architecture without weights, or its tokenizer does
                not end texts.
        """
        if model.tokenizer is None or model.params is None:
            raise UserError(
                f"the teacher {name!r} has no weights: name a run, a directory or a "
                "hub name"
            )
        check_ends(model.config, model.tokenizer)
        self.name = name
        self.directory = model.directory
        self.config = model.config
        self.params: Params = model.params
        self.tokenizer: Tokenizer = model.tokenizer

    @property
    def context_length(self) -> int:
        """Tokens of its longest text."""
        return self.config.text.context_length

    def embed_captions(self, captions: list[str]) -> Float[np.ndarray, "N D"]:
        """Embed texts, not normalised."""
        ids = self.tokenizer.encode(captions, self.context_length)
        return embed_texts(self.params, ids, config=self.config)

    def embed_source(self, source: Source, most: int) -> Float[np.ndarray, "N D"]:
        """Embed the first images of a source, at most so many, not normalised."""
        images = Images(source, range(min(most, len(source))))
        return embed_images(self.params, images, config=self.config)

    def see_rows(
        self, source: Source, rows: Sequence[int], wanted: Wanted
    ) -> dict[str, np.ndarray]:
        """Return fields of the embeddings of a source's images, before any layers."""
        images = Images(source, rows)
        return see_images(self.params, images, config=self.config, wanted=wanted)

    def embed_pairs(
        self, source: Source, batch_size: int
    ) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]:
        """Embed the images and first captions that a calibration looks at."""
        image = self.embed_source(source, CALIBRATION_BATCHES * batch_size)
        first = [source[row].captions[0] for row in range(len(image))]
        return image, self.embed_captions(first)


@dataclass(frozen=True)
class Taught:
    """What a run needs of its teachers, made ready; of none if there are none.

    Attributes:
        configs: of each.
        frozen: the step's argument of that name.
        tokenizers: of the captions that they read in every step, by model name.
        put: puts their held outputs into a batch; None where none are held.
        scales: that the soft targets of each are calibrated to; None for its own.
    """

    configs: tuple[CLIPConfig, ...]
    frozen: tuple[Params, ...]
    tokenizers: Mapping[str, tuple[Tokenizer, int]]
    put: Callable[[Batch], Batch] | None
    scales: tuple[float | None, ...]


def make_ready(
    teachers: Sequence[Teacher], config: ConfigDict, wanted: Sequence[Wanted]
) -> Taught:
    """Calibrate teachers, and hold their outputs where the config asks for it.

    What is returned then keeps nothing of their towers.

    Args:
        teachers: to be heard.
        config: of the run.
        wanted: of each teacher beside its embeddings.
    """
    asked = wanted_scales(config.teacher_scale, len(teachers)) if teachers else ()
    scales = tuple(map(partial(calibrated_scale, config), teachers, asked))
    held = are_held(teachers, config)
    return Taught(
        tuple(teacher.config for teacher in teachers),
        tuple(map(partial(_frozen, held=held), teachers, scales)),
        {} if held else _tokenizers(teachers),
        hold_outputs(teachers, source_of(config, "train"), wanted) if held else None,
        scales,
    )


def are_held(teachers: Sequence[Teacher], config: ConfigDict) -> bool:
    """Return whether there are teachers whose outputs are held."""
    return bool(teachers) and config.teacher_outputs == "held"


def _frozen(teacher: Teacher, scale: float | None, *, held: bool) -> Params:
    """Return what a step needs of a teacher's parameters, its calibrated scale too."""
    calibrated = {} if scale is None else {"calibrated_scale": jnp.float32(scale)}
    needed = SCALARS if held else teacher.params
    kept = {k: x for k, x in teacher.params.items() if k in needed}
    return {**kept, **calibrated}


def _tokenizers(teachers: Sequence[Teacher]) -> dict[str, tuple[Tokenizer, int]]:
    return {
        f"teacher_{index}": (teacher.tokenizer, teacher.context_length)
        for index, teacher in enumerate(teachers)
    }


def calibrated_scale(config: ConfigDict, teacher: Teacher, wanted: str) -> float | None:
    """Return the scale that the config asks for, or None for the teacher's own.

    Args:
        config: of the run.
        teacher: to calibrate.
        wanted: "own"; a number; "match_entropy": the scale at which the rows of the
            teacher's softmax over held-out batches, as large as those trained on, have
            a mean entropy of `teacher_entropy` nats, so that sharp and soft teachers
            say equally much; or "stored": what `kdjax calibrate` has found to be that.

    Raises:
        UserError: no scale gives that entropy, there are too few pairs for a batch,
            or no scale is stored.
    """
    if wanted == "own":
        return None
    if wanted == "stored":
        return stored_scale(teacher.directory, config)
    if wanted != "match_entropy":
        return float(wanted)
    rows = config.batch_size
    image, text = teacher.embed_pairs(source_of(config, HELD_OUT), rows)
    return match_entropy(image, text, config.teacher_entropy, rows=rows)


def check_held(
    teachers: Sequence[Teacher], wanted: Sequence[Wanted], images: int
) -> None:
    """Check that what is wanted of so many images can be held in memory.

    Args:
        teachers: to be heard.
        wanted: of each beside its embeddings.
        images: to look at.

    Raises:
        UserError: it is too much for all teachers together.
    """
    each = (
        bytes_of_image(
            teacher.params, config=teacher.config, wanted=(*EMBEDDED, *fields)
        )
        for teacher, fields in zip(teachers, wanted, strict=True)
    )
    names = sorted({field for fields in wanted for field, _ in fields})
    what = " and ".join(["image", *names])
    remedy = "set teacher_outputs to computed, or compare fewer layers"
    check_fits(what, sum(each), images, remedy)


def check_fits(what: str, each: int, images: int, remedy: str) -> None:
    """Check that what frozen models say of so many images can be held in memory.

    Args:
        what: they say.
        each: bytes of an image.
        images: to look at.
        remedy: what to do where they cannot.

    Raises:
        UserError: it is too much.
    """
    size = each * images / 2**30
    if size > MOST_HELD_GIB:
        raise UserError(
            f"to hold {what} of {images} images takes {size:.0f} GiB, and at most "
            f"{MOST_HELD_GIB} are held: {remedy}"
        )


def hold_outputs(
    teachers: Sequence[Teacher], source: Source, wanted: Sequence[Wanted]
) -> Callable[[Batch], Batch]:
    """Compute teachers' outputs once; return what puts them into a batch.

    Args:
        teachers: to be heard.
        source: of images and captions.
        wanted: of each teacher beside its embeddings.
    """
    captions = [source[i].captions for i in range(len(source))]
    row_of = {
        text: row for row, text in enumerate(sorted({*itertools.chain(*captions)}))
    }
    texts = [teacher.embed_captions(list(row_of)) for teacher in teachers]
    seen = [
        teacher.see_rows(source, range(len(source)), (*EMBEDDED, *fields))
        for teacher, fields in zip(teachers, wanted, strict=True)
    ]

    def put(batch: Batch) -> Batch:
        chosen = zip(batch["index"].tolist(), batch["caption"].tolist(), strict=True)
        rows = [row_of[captions[index][caption]] for index, caption in chosen]
        outputs = [
            {**{k: x[batch["index"]] for k, x in of.items()}, "text": text[rows]}
            for of, text in zip(seen, texts, strict=True)
        ]
        return {**batch, "teacher": outputs}

    return put

"""A teacher made ready: its weights, its logit scale, and its outputs held."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from kdjax.commands.common import source_of
from kdjax.commands.models import NamedModel, check_ends
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
from kdjax.objectives import Objective, estimate, estimated, match_entropy

# Batches of held-out pairs whose entropy is matched.
CALIBRATION_BATCHES = 8
# Training images, of all, that statistics are estimated on: of patches, of embeddings.
PATCH_IMAGES, EMBEDDED_IMAGES = 256, 2048
# More is not held in memory.
MOST_HELD_GIB = 32

Batch = dict[str, Any]


class Teacher:
    """A frozen CLIP model with the tokenizer that it was trained with.

    Attributes:
        config: of the model.
        params: its weights.
        tokenizer: of its texts.
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
        rows = range(min(most, len(source)))
        images = np.stack([source[row].image for row in rows])
        return embed_images(self.params, images, config=self.config)

    def see_rows(
        self, source: Source, rows: Sequence[int], wanted: Wanted
    ) -> dict[str, np.ndarray]:
        """Return fields of the embeddings of a source's images, before any layers."""
        images = np.stack([source[row].image for row in rows])
        return see_images(self.params, images, config=self.config, wanted=wanted)


@dataclass(frozen=True)
class Taught:
    """What a run needs of its teacher, made ready.

    Attributes:
        config: of the teacher; None where there is none.
        frozen: the step's argument of that name.
        tokenizers: of the captions that the teacher reads in every step, by model name.
        put: puts its held outputs into a batch; None where none are held.
        scale: that its soft targets are calibrated to; None for its own.
        statistics: estimated of its outputs, a subtree of the objective's parameters.
    """

    config: CLIPConfig | None = None
    frozen: Params | None = None
    tokenizers: Mapping[str, tuple[Tokenizer, int]] = field(default_factory=dict)
    put: Callable[[Batch], Batch] | None = None
    scale: float | None = None
    statistics: Params = field(default_factory=dict)


NO_TEACHER = Taught()


def make_ready(teacher: Teacher, config: ConfigDict, objective: Objective) -> Taught:
    """Calibrate a teacher, and hold its outputs where the config asks for it.

    What is returned then keeps nothing of its towers. Of the objective, which may be
    its shapes, only what it needs of the teacher is read.
    """
    scale = calibrated_scale(teacher, config, source_of(config, "validation"))
    calibrated = {} if scale is None else {"calibrated_scale": jnp.float32(scale)}
    statistics = estimate_statistics(teacher, source_of(config, "train"), objective)
    if config.teacher_outputs == "held":
        scalars = ("logit_scale", "logit_bias")
        kept = {k: teacher.params[k] for k in scalars if k in teacher.params}
        put = hold_outputs(teacher, source_of(config, "train"), objective.wanted())
        return Taught(
            teacher.config,
            {**kept, **calibrated},
            put=put,
            scale=scale,
            statistics=statistics,
        )
    return Taught(
        teacher.config,
        {**teacher.params, **calibrated},
        {"teacher": (teacher.tokenizer, teacher.context_length)},
        scale=scale,
        statistics=statistics,
    )


def calibrated_scale(
    teacher: Teacher, config: ConfigDict, held_out: Source
) -> float | None:
    """Return the scale that the config asks for, or None for the teacher's own.

    `teacher_scale` is "own", a number, or "match_entropy": the scale at which the rows
    of the teacher's softmax over held-out batches, as large as those trained on, have a
    mean entropy of `teacher_entropy` nats, so that sharp and soft teachers say equally
    much.

    Raises:
        UserError: it is none of these, or no scale gives that entropy.
    """
    wanted = config.teacher_scale
    check_teacher_scale(wanted)
    if wanted == "own":
        return None
    if wanted != "match_entropy":
        return float(wanted)
    image = teacher.embed_source(held_out, CALIBRATION_BATCHES * config.batch_size)
    first = [held_out[row].captions[0] for row in range(len(image))]
    text = teacher.embed_captions(first)
    rows = min(config.batch_size, len(image))
    return match_entropy(image, text, config.teacher_entropy, rows=rows)


def check_teacher_scale(wanted: Any) -> None:
    """Check a `teacher_scale`, whose number may be text, as on a command line.

    Raises:
        UserError: it is none.
    """
    if wanted in ("own", "match_entropy"):
        return
    try:
        scale = float(wanted)
    except (TypeError, ValueError):
        scale = math.nan
    if not 0 < scale < math.inf:
        raise UserError(
            f"teacher_scale is {wanted!r}; give own, match_entropy or a number above 0"
        )


def estimate_statistics(
    teacher: Teacher, source: Source, objective: Objective
) -> Params:
    """Return what an objective wants estimated of a teacher on training images."""
    wanted = estimated(objective)
    of_embeddings = tuple(each for each in wanted if each[0] in ("image", "text"))
    of_patches = tuple(each for each in wanted if each not in of_embeddings)
    outputs: dict[str, np.ndarray] = {}
    if of_embeddings:
        rows = _spread(source, EMBEDDED_IMAGES)
        captions = [source[row].captions[0] for row in rows]
        outputs |= teacher.see_rows(source, rows, (("image", ()),))
        outputs["text"] = teacher.embed_captions(captions)
    if of_patches:
        rows = _spread(source, PATCH_IMAGES)
        outputs |= teacher.see_rows(source, rows, of_patches)
    return estimate(objective, outputs)


def _spread(source: Source, most: int) -> list[int]:
    """Return rows spread evenly over a source, at most so many."""
    count = min(most, len(source))
    return [row * len(source) // count for row in range(count)]


def check_held(teacher: Teacher, wanted: Wanted, images: int) -> None:
    """Check that what is wanted of so many images can be held in memory.

    Raises:
        UserError: it is too much.
    """
    each = bytes_of_image(teacher.params, config=teacher.config, wanted=wanted)
    size = each * images / 2**30
    if size > MOST_HELD_GIB:
        fields = " and ".join(field for field, _ in wanted)
        raise UserError(
            f"to hold {fields} of {images} images takes {size:.0f} GiB, and at most "
            f"{MOST_HELD_GIB} are held: set teacher_outputs to computed, or compare "
            "fewer layers"
        )


def hold_outputs(
    teacher: Teacher, source: Source, wanted: Wanted = ()
) -> Callable[[Batch], Batch]:
    """Compute a teacher's outputs once; return what puts them into a batch.

    Args:
        teacher: to be heard.
        source: of its images and captions.
        wanted: beside the embeddings.
    """
    wanted = (("image", ()), *wanted)
    check_held(teacher, wanted, len(source))
    captions = [source[i].captions for i in range(len(source))]
    row_of = {
        text: row for row, text in enumerate(sorted({*itertools.chain(*captions)}))
    }
    texts = teacher.embed_captions(list(row_of))
    seen = teacher.see_rows(source, range(len(source)), wanted)

    def put(batch: Batch) -> Batch:
        chosen = zip(batch["index"].tolist(), batch["caption"].tolist(), strict=True)
        rows = [row_of[captions[index][caption]] for index, caption in chosen]
        outputs = {field: x[batch["index"]] for field, x in seen.items()}
        return {**batch, "teacher": {**outputs, "text": texts[rows]}}

    return put

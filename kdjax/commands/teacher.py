"""A teacher made ready: its weights, its logit scale, and its outputs held."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from kdjax.commands.calibration import stored_scale
from kdjax.commands.common import source_of
from kdjax.commands.models import NamedModel, check_ends
from kdjax.data.records import Source
from kdjax.data.tokenizer import Tokenizer
from kdjax.errors import UserError
from kdjax.evaluation.embedding import embed_images, embed_texts
from kdjax.models import CLIPConfig, Params
from kdjax.objectives import match_entropy

# Batches of held-out pairs whose entropy is matched.
CALIBRATION_BATCHES = 8

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
        rows = range(min(most, len(source)))
        images = np.stack([source[row].image for row in rows])
        return embed_images(self.params, images, config=self.config)

    def embed_pairs(
        self, source: Source, batch_size: int
    ) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]:
        """Embed the images and first captions that a calibration looks at."""
        image = self.embed_source(source, CALIBRATION_BATCHES * batch_size)
        first = [source[row].captions[0] for row in range(len(image))]
        return image, self.embed_captions(first)


@dataclass(frozen=True)
class Taught:
    """What a run needs of its teacher, made ready.

    Attributes:
        config: of the teacher; None where there is none.
        frozen: the step's argument of that name.
        tokenizers: of the captions that the teacher reads in every step, by model name.
        put: puts its held outputs into a batch; None where none are held.
        scale: that its soft targets are calibrated to; None for its own.
    """

    config: CLIPConfig | None = None
    frozen: Params | None = None
    tokenizers: Mapping[str, tuple[Tokenizer, int]] = field(default_factory=dict)
    put: Callable[[Batch], Batch] | None = None
    scale: float | None = None


NO_TEACHER = Taught()


def make_ready(teacher: Teacher, config: ConfigDict) -> Taught:
    """Calibrate a teacher, and hold its outputs where the config asks for it.

    What is returned then keeps nothing of its towers.
    """
    scale = calibrated_scale(teacher, config, source_of(config, "validation"))
    calibrated = {} if scale is None else {"calibrated_scale": jnp.float32(scale)}
    if config.teacher_outputs == "held":
        scalars = ("logit_scale", "logit_bias")
        kept = {k: teacher.params[k] for k in scalars if k in teacher.params}
        put = hold_outputs(teacher, source_of(config, "train"))
        return Taught(teacher.config, {**kept, **calibrated}, put=put, scale=scale)
    return Taught(
        teacher.config,
        {**teacher.params, **calibrated},
        {"teacher": (teacher.tokenizer, teacher.context_length)},
        scale=scale,
    )


def calibrated_scale(
    teacher: Teacher, config: ConfigDict, held_out: Source
) -> float | None:
    """Return the scale that the config asks for, or None for the teacher's own.

    `teacher_scale` is "own", a number, or "match_entropy": the scale at which the rows
    of the teacher's softmax over held-out batches, as large as those trained on, have a
    mean entropy of `teacher_entropy` nats, so that sharp and soft teachers say equally
    much; or "stored": what `kdjax calibrate` has found to be that scale.

    Raises:
        UserError: it is none of these, no scale gives that entropy, or none is stored.
    """
    wanted = config.teacher_scale
    check_teacher_scale(wanted)
    if wanted == "own":
        return None
    if wanted == "stored":
        return stored_scale(teacher.directory, config)
    if wanted != "match_entropy":
        return float(wanted)
    image, text = teacher.embed_pairs(held_out, config.batch_size)
    rows = min(config.batch_size, len(image))
    return match_entropy(image, text, config.teacher_entropy, rows=rows)


def check_teacher_scale(wanted: Any) -> None:
    """Check a `teacher_scale`, whose number may be text, as on a command line.

    Raises:
        UserError: it is none.
    """
    if wanted in ("own", "match_entropy", "stored"):
        return
    try:
        scale = float(wanted)
    except (TypeError, ValueError):
        scale = math.nan
    if not 0 < scale < math.inf:
        raise UserError(
            f"teacher_scale is {wanted!r}; give own, match_entropy, stored or a number "
            "above 0"
        )


def hold_outputs(teacher: Teacher, source: Source) -> Callable[[Batch], Batch]:
    """Compute a teacher's outputs once; return what puts them into a batch."""
    captions = [source[i].captions for i in range(len(source))]
    row_of = {
        text: row for row, text in enumerate(sorted({*itertools.chain(*captions)}))
    }
    texts = teacher.embed_captions(list(row_of))
    images = teacher.embed_source(source, len(source))

    def put(batch: Batch) -> Batch:
        chosen = zip(batch["index"].tolist(), batch["caption"].tolist(), strict=True)
        rows = [row_of[captions[index][caption]] for index, caption in chosen]
        outputs = {"image": images[batch["index"]], "text": texts[rows]}
        return {**batch, "teacher": outputs}

    return put

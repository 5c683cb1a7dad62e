"""A VQA model's answers to the questions of a data set."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from kdjax.data.loader import Images, vqa_evaluation_batches
from kdjax.evaluation.embedding import BATCH, in_batches
from kdjax.evaluation.subject import Scores, Subject
from kdjax.evaluation.vqa import annotations_of, vqa_accuracy
from kdjax.hosts import beside, whole
from kdjax.models import Params, VQAConfig, VQAModel, graph_of
from kdjax.models.clip import preprocess


@functools.partial(jax.jit, static_argnames="config")
def likely_answers(
    params: Params,
    pixels: Float[Array, "B S S 3"],
    questions: Int[Array, "B Q L"],
    *,
    config: VQAConfig,
) -> Int[Array, "B Q"]:
    """Return the most likely answer's index for normalised images and question ids."""
    model = nnx.merge(graph_of(VQAModel, config), params)
    return jnp.argmax(model(pixels, questions), axis=-1)


@functools.partial(jax.jit, static_argnames="config")
def best_answers(
    params: Params, images: Array, questions: Int[Array, "B Q L"], *, config: VQAConfig
) -> Int[Array, "B Q"]:
    """Return the same for uint8 images of any size."""
    pixels = preprocess(images, config.vision)
    return likely_answers(params, pixels, questions, config=config)


@functools.partial(jax.jit, static_argnames="config")
def _image_tokens(
    params: Params, images: UInt8[Array, "B H W 3"], *, config: VQAConfig
) -> Float[Array, "B N D"]:
    model = nnx.eval_shape(lambda: VQAModel(config, rngs=nnx.Rngs(0)))
    tower: Any = nnx.merge(nnx.graphdef(model.vision), params)
    return tower(preprocess(images, config.vision)).all_tokens


def image_tokens(
    params: Params, images: UInt8[np.ndarray, "N H W 3"] | Images, *, config: VQAConfig
) -> Float[np.ndarray, "N M D"]:
    """Return what the vision tower of these parameters gives to a VQA model."""
    return in_batches(functools.partial(_image_tokens, config=config), params, images)


def shapes_of_tokens(
    params: Params, images: Any, *, config: VQAConfig
) -> jax.ShapeDtypeStruct:
    """Return the shape of what `image_tokens` gives, from shapes alone."""
    see = functools.partial(_image_tokens, config=config)
    return jax.eval_shape(see, params, images)


def bytes_of_tokens(params: Params, *, config: VQAConfig) -> int:
    """Return what `image_tokens` gives for each image, in bytes."""
    size = config.vision.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.uint8)
    tokens = shapes_of_tokens(params, images, config=config)
    return tokens.size * tokens.dtype.itemsize


def answer_questions(
    params: Params,
    config: VQAConfig,
    batches: Iterable[dict[str, Any]],
    answers: Sequence[str],
) -> dict[int, str]:
    """Return the answer to every question, by question id."""
    said: dict[int, str] = {}
    for batch in batches:
        asked = beside(params, (batch["image"], batch["question"]))
        best = np.asarray(whole(best_answers(params, *asked, config=config)))
        kept = batch["mask"]
        for question_id, index in zip(
            batch["question_id"][kept], best[kept], strict=True
        ):
            said[int(question_id)] = answers[int(index)]
    return said


def score_vqa(params: Params, subject: Subject) -> Scores:
    """Return the official accuracies of a split in percent, and what was said."""
    config: Any = subject.config
    source = subject.source
    batches = vqa_evaluation_batches(
        source,
        subject.tokenizer,
        batch_size=BATCH,
        questions_per_image=subject.questions_per_image,
        question_length=config.question_length,
        blank=subject.blank,
    )
    said = answer_questions(params, config, batches, subject.answers)
    questions = [q for i in range(len(source)) for q in source[i].questions]
    accuracy = vqa_accuracy(said, annotations_of(questions))
    results = {
        "vqa_accuracy": accuracy.overall,
        "per_question_type": dict(accuracy.per_question_type),
        "per_answer_type": dict(accuracy.per_answer_type),
    }
    return Scores(results, said)

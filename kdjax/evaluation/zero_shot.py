"""Zero-shot classification: the class whose caption is nearest to the image."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Int

from kdjax.data.loader import contrastive_evaluation_batches
from kdjax.evaluation.embedding import BATCH, embed_images, embed_texts
from kdjax.evaluation.subject import Scores, Subject
from kdjax.models import CLIPConfig, Params


def zero_shot_accuracy(
    params: Params,
    config: CLIPConfig,
    batches: Iterable[dict[str, Any]],
    prompts: Int[np.ndarray, "classes L"],
) -> float | None:
    """Return the top-1 accuracy in percent over the images whose class is known.

    None where there is no class, or no image's is known.

    Args:
        params: of the CLIP model.
        config: of the CLIP model.
        batches: with "image", "label" (-1 where unknown) and "mask".
        prompts: token ids of one caption per class.
    """
    if not len(prompts):
        return None
    classes = embed_texts(params, prompts, config=config)
    classes = classes / np.linalg.norm(classes, axis=1, keepdims=True)
    right = known = 0
    for batch in batches:
        images = embed_images(params, batch["image"], config=config)
        nearest = np.argmax(images @ classes.T, axis=1)
        counted = batch["mask"] & (batch["label"] >= 0)
        known += int(counted.sum())
        right += int((nearest == batch["label"])[counted].sum())
    return 100.0 * right / known if known else None


def score_zero_shot(params: Params, subject: Subject) -> Scores:
    """Return a CLIP model's zero-shot accuracy on a split in percent, if it has one."""
    config: Any = subject.config
    source, length = subject.source, config.text.context_length
    prompts = subject.tokenizer.encode(list(source.class_prompts), length)
    batches = contrastive_evaluation_batches(source, batch_size=BATCH)
    accuracy = zero_shot_accuracy(params, config, batches, prompts)
    return Scores({"zero_shot_accuracy": accuracy})

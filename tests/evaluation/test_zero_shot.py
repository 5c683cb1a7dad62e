"""Zero-shot accuracy on images whose nearest class NumPy has found."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import clip_config, drawn, images, normalised, texts

from kdjax.evaluation.zero_shot import zero_shot_accuracy
from kdjax.models import CLIP

CONFIG = clip_config()
RNG = np.random.default_rng(0)
IMAGES, PROMPTS = images(RNG, 12), texts(RNG, 5)


@pytest.fixture(scope="module")
def embeds():
    """Parameters, and what they make of images and prompts, in float64."""
    clip = drawn(lambda: CLIP(CONFIG, rngs=nnx.Rngs(0)))
    ask = nnx.jit(lambda clip, x, ids: (clip.encode_image(x), clip.encode_text(ids)))
    asked = normalised(IMAGES), jnp.asarray(PROMPTS)
    # Images of a random model are much alike: project out what they share.
    shared = ask(clip, *asked)[0].mean(0)
    shared = shared / jnp.linalg.norm(shared)
    kernel = clip.visual_projection.kernel
    kernel[...] = kernel[...] @ (jnp.eye(len(shared)) - jnp.outer(shared, shared))
    found = [np.asarray(x, float) for x in ask(clip, *asked)]
    return nnx.to_pure_dict(nnx.state(clip)), *found


@pytest.fixture(scope="module")
def nearest(embeds):
    """The class of the largest cosine; that of the largest product is another."""
    _, image, text = embeds
    lengths = np.linalg.norm(text, axis=1)
    found = np.argmax(image @ (text / lengths[:, None]).T, axis=1)
    assert len(set(found)) > 1
    assert (found != np.argmax(image @ text.T, axis=1)).any()
    return found.astype(np.int32)


def accuracy(embeds, labels, mask=None, size=4):
    mask = np.ones(12, bool) if mask is None else mask
    batches = [
        {"image": IMAGES[rows], "label": labels[rows], "mask": mask[rows]}
        for rows in (slice(start, start + size) for start in range(0, 12, size))
    ]
    return zero_shot_accuracy(embeds[0], CONFIG, batches, PROMPTS)


@pytest.mark.parametrize("right", [0, 3, 7, 12])
def test_the_accuracy_is_the_percentage_of_nearest_classes(embeds, nearest, right):
    labels = np.where(np.arange(12) < right, nearest, (nearest + 1) % 5)
    assert accuracy(embeds, labels) == pytest.approx(100 * right / 12)


def test_the_size_of_batches_does_not_matter(embeds, nearest):
    labels = np.where(np.arange(12) % 3 == 0, nearest, (nearest + 2) % 5)
    found = {accuracy(embeds, labels, size=size) for size in (1, 5, 12)}
    assert found == {100 * 4 / 12}


def test_unknown_labels_and_padding_are_left_out(embeds, nearest):
    labels, mask = nearest.copy(), np.ones(12, bool)
    labels[2:5] = -1
    labels[8:] = (nearest[8:] + 1) % 5
    mask[9:] = False
    # Eight images are right, three of them unknown; one of the wrong four is there.
    assert accuracy(embeds, labels, mask) == pytest.approx(100 * 5 / 6)


def test_without_a_known_class_there_is_no_accuracy(embeds):
    assert accuracy(embeds, np.full(12, -1, np.int32)) is None

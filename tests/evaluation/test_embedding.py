"""Embeddings in batches are those of one row at a time."""

import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import clip_config, drawn, images, normalised, texts

from kdjax.data.loader import Images
from kdjax.data.records import Record
from kdjax.evaluation.embedding import (
    BATCH,
    embed_images,
    embed_texts,
    in_batches,
    see_images,
)
from kdjax.models import CLIP

CONFIG = clip_config()


@pytest.fixture(scope="module")
def clip():
    return drawn(lambda: CLIP(CONFIG, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1])
def test_images_in_batches_are_those_one_by_one(clip, count):
    raw = images(np.random.default_rng(0), count)
    params = nnx.to_pure_dict(nnx.state(clip))
    found = embed_images(params, raw, config=CONFIG)
    assert found.shape == (count, CONFIG.embed_dim)
    alone = nnx.jit(lambda clip, x: clip.encode_image(x))
    for row in {0, count // 2, count - 1}:
        expected = alone(clip, normalised(raw[row : row + 1]))
        np.testing.assert_allclose(found[row], expected[0], atol=1e-5)


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1])
def test_texts_in_batches_are_those_one_by_one(clip, count):
    ids = texts(np.random.default_rng(0), count)
    params = nnx.to_pure_dict(nnx.state(clip))
    found = embed_texts(params, ids, config=CONFIG)
    assert found.shape == (count, CONFIG.embed_dim)
    alone = nnx.jit(lambda clip, x: clip.encode_text(x))
    for row in {0, count // 2, count - 1}:
        expected = alone(clip, jnp.asarray(ids[row : row + 1]))
        np.testing.assert_allclose(found[row], expected[0], atol=1e-5)


def test_of_images_only_the_fields_and_the_layers_that_are_wanted_come_back(clip):
    raw = images(np.random.default_rng(1), 3)
    params = nnx.to_pure_dict(nnx.state(clip))
    last = CONFIG.vision.layers - 1
    wanted = (
        ("image", ()),
        ("image_tokens", ()),
        ("image_hidden", (0, last)),
        ("image_attention", (last,)),
    )
    found = see_images(params, raw, config=CONFIG, wanted=wanted)
    ids = jnp.asarray(texts(np.random.default_rng(1), 3))
    flags = {"tokens": True, "hidden": True, "attention": True}
    all_of = nnx.jit(lambda clip, x, ids: clip.embeddings(x, ids, **flags))
    expected = all_of(clip, normalised(raw), ids)
    assert set(found) == set(dict(wanted))
    for field, layers in wanted:
        whole = getattr(expected, field)
        if layers:
            whole = jnp.moveaxis(whole[np.array(layers)], 0, 1)
        np.testing.assert_allclose(found[field], whole, atol=1e-5)


class Watched:
    """A source that knows how many of its images are in memory at once."""

    name, split, answers, class_prompts = "watched", "train", (), ()

    def __init__(self, images):
        self.images, self.alive, self.most = images, 0, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index].copy()
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.forget)
        return Record(index, image, ("a",))

    def forget(self):
        self.alive -= 1

    def texts(self, limit=2000):
        yield from ()


def test_images_of_a_source_are_in_memory_a_batch_at_a_time(clip):
    raw = images(np.random.default_rng(2), 3 * BATCH)
    params, source = nnx.to_pure_dict(nnx.state(clip)), Watched(raw)
    rows = range(0, len(raw), 2)
    found = embed_images(params, Images(source, rows), config=CONFIG)
    np.testing.assert_array_equal(found, embed_images(params, raw[::2], config=CONFIG))
    assert BATCH <= source.most <= BATCH + 1


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, 2 * BATCH + 1])
def test_all_batches_have_one_size_and_rows_keep_their_order(count):
    sizes = []

    def double(params, rows):
        sizes.append(len(rows))
        return jnp.asarray(params["factor"] * rows)

    rows = np.arange(count, dtype=np.float32)[:, None]
    found = in_batches(double, {"factor": 2}, rows)
    np.testing.assert_array_equal(found, 2 * rows)
    assert set(sizes) == {BATCH}

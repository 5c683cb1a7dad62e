"""What each token of a tower may see, and which one stands for the whole."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import TEXT, VISION, drawn, images, normalised

from kdjax.errors import UserError
from kdjax.models.towers import TextTower, VisionTower, patchify

DTYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}
IMAGES = normalised(images(np.random.default_rng(0), 2))
# In the second text the end of text comes again, as in OpenAI's padding.
IDS = jnp.array([[4, 7, 5, 19, 0, 0], [8, 6, 19, 3, 19, 9]])
ENDS = [3, 2]

see = nnx.jit(lambda tower, images: tower(images))
see_some = nnx.jit(lambda tower, images, keep: tower(images, keep=keep))
read = nnx.jit(lambda tower, ids, mask=None: tower(ids, mask))


@pytest.fixture(scope="module")
def vision():
    return drawn(lambda: VisionTower(VISION, dtypes=DTYPES, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def inattentive(vision):
    """The tower, but no token sees another."""
    tower = nnx.clone(vision)
    kernel = tower.transformer.blocks.attention.out.kernel
    kernel[...] = jnp.zeros_like(kernel[...])
    return tower


@pytest.fixture(scope="module")
def text():
    return drawn(lambda: TextTower(TEXT, dtypes=DTYPES, rngs=nnx.Rngs(0)))


def changed(images, row, column, patch=4):
    """Change one patch."""
    rows = slice(row * patch, (row + 1) * patch)
    columns = slice(column * patch, (column + 1) * patch)
    return images.at[:, rows, columns, 1].add(1.0)


def moved(a, b):
    """Which tokens differ in both images."""
    return abs(np.asarray(a) - np.asarray(b)).max(-1).min(0) > 1e-3


def test_patches_are_cut_by_rows_and_flattened_by_row_column_channel():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    expected = [
        [x[b, r : r + 2, c : c + 2].ravel() for r in (0, 2) for c in (0, 2, 4)]
        for b in range(2)
    ]
    np.testing.assert_array_equal(patchify(jnp.asarray(x), 2), expected)


@pytest.mark.parametrize("place", range(4))
def test_without_attention_a_token_sees_its_patch_and_the_pooled_one_none(
    inattentive, place
):
    before = see(inattentive, IMAGES)
    after = see(inattentive, changed(IMAGES, *divmod(place, 2)))
    np.testing.assert_array_equal(before.pooled, after.pooled)
    np.testing.assert_array_equal(
        moved(before.tokens, after.tokens), np.arange(4) == place
    )


def test_with_attention_all_tokens_see_all_patches(vision):
    before, after = see(vision, IMAGES), see(vision, changed(IMAGES, 1, 0))
    assert moved(before.all_tokens, after.all_tokens).all()


@pytest.mark.parametrize("pooling", ["class", "mean", "attention"])
def test_a_masked_image_is_seen_where_it_is_kept(pooling):
    config = replace(VISION, pooling=pooling, class_token=pooling == "class")
    tower = drawn(lambda: VisionTower(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))
    keep = jnp.array([[2, 1], [1, 3]])
    before = see_some(tower, IMAGES, keep)
    assert before.tokens.shape == (2, 2, VISION.width)
    # The first image loses patch 0 and 3, the second 0 and 2.
    for place, seen in enumerate([(False, False), (True, True), (True, False)]):
        after = see_some(tower, changed(IMAGES, *divmod(place, 2)), keep)
        differs = abs(np.asarray(after.pooled - before.pooled)).max(-1) > 1e-4
        assert tuple(differs) == seen
    # The places of patches that are kept count, and not their order.
    everything = see_some(tower, IMAGES, jnp.array([[3, 1, 0, 2], [0, 1, 2, 3]]))
    np.testing.assert_allclose(
        everything.pooled, see(tower, IMAGES).pooled, rtol=1e-4, atol=1e-5
    )


def test_all_tokens_are_the_pooled_one_and_the_patches(vision):
    out = see(vision, IMAGES)
    assert out.tokens.shape == (2, VISION.num_patches, VISION.width)
    expected = np.concatenate([out.pooled[:, None], out.tokens], axis=1)
    np.testing.assert_array_equal(out.all_tokens, expected)


def test_places_count(vision, text):
    swapped = jnp.roll(IMAGES, 4, axis=1)
    assert (moved(see(vision, IMAGES).pooled, see(vision, swapped).pooled)).all()
    same = jnp.full((1, 6), 5)
    states = np.asarray(read(text, same).tokens[0])
    assert abs(np.diff(states, axis=0)).max(-1).min() > 1e-4


def test_images_of_another_size_are_refused(vision):
    with pytest.raises(ValueError, match="takes 8 pixels a side"):
        vision(jnp.zeros((1, 12, 12, 3)))


@pytest.mark.parametrize("place", range(6))
def test_a_later_word_does_not_change_an_earlier_state(text, place):
    other = IDS.at[:, place].set(11)
    before, after = read(text, IDS).tokens, read(text, other).tokens
    np.testing.assert_array_equal(moved(before, after), np.arange(6) >= place)
    np.testing.assert_array_equal(before[:, :place], after[:, :place])


@pytest.mark.parametrize("place", [0, 1])
def test_padding_under_a_mask_does_not_change_the_pooled_text(text, place):
    mask = jnp.ones_like(IDS).at[:, place].set(0)
    other = IDS.at[:, place].set(11)
    masked, also = (read(text, ids, mask).pooled for ids in (IDS, other))
    np.testing.assert_allclose(masked, also, atol=1e-6)
    plain, changed = (read(text, ids).pooled for ids in (IDS, other))
    assert moved(plain, changed).all()
    assert moved(plain, masked).all()


def test_a_mask_of_ones_is_none(text):
    everything = read(text, IDS, jnp.ones_like(IDS)).pooled
    np.testing.assert_allclose(everything, read(text, IDS).pooled, atol=1e-6)


def test_the_first_end_of_text_is_pooled(text):
    out = read(text, IDS)
    np.testing.assert_array_equal(out.pooled, out.tokens[np.arange(2), ENDS])


def test_words_after_the_end_and_shorter_batches_pool_the_same(text):
    expected = read(text, IDS).pooled
    other = jnp.where(jnp.arange(6) > jnp.array(ENDS)[:, None], 7, IDS)
    np.testing.assert_allclose(read(text, other).pooled, expected, atol=1e-6)
    np.testing.assert_allclose(read(text, IDS[:, :4]).pooled, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("pooling", "places"), [("argmax", [3, 2]), ("last", [5, 5]), ("eos", [1, 0])]
)
def test_a_text_is_pooled_where_its_config_says(pooling, places):
    config = replace(TEXT, pooling=pooling, eos_id=7)
    tower = drawn(lambda: TextTower(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))
    ids = IDS.at[1, 0].set(7)
    out = read(tower, ids)
    np.testing.assert_array_equal(out.pooled, out.tokens[np.arange(2), places])


def test_words_see_each_other_where_the_tower_is_not_causal():
    config = replace(TEXT, causal=False)
    tower = drawn(lambda: TextTower(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))
    other = IDS.at[:, 5].set(11)
    assert moved(read(tower, IDS).tokens, read(tower, other).tokens).all()
    mask = jnp.array([[1, 1, 1, 1, 1, 0]] * 2)
    masked = [read(tower, ids, mask).tokens for ids in (IDS, other)]
    assert list(moved(*masked)) == [False] * 5 + [True]


def test_a_mean_is_of_the_patches_and_normed_before_or_after():
    plain = replace(VISION, pooling="mean")
    for config in (plain, replace(plain, norm_after_pooling=True)):
        tower = drawn(lambda: VisionTower(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))  # noqa: B023
        out = tower(IMAGES, hidden=(tower.config.layers - 1,))
        patches = out.trace.hidden[-1][:, 1:]
        expected = (
            tower.post_norm(patches.mean(1))
            if config.norm_after_pooling
            else tower.post_norm(patches).mean(1)
        )
        np.testing.assert_allclose(out.pooled, expected, atol=1e-5)


def test_what_does_not_fill_a_patch_is_not_seen():
    config = replace(VISION, image_size=10)
    tower = drawn(lambda: VisionTower(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))
    images = jnp.pad(IMAGES, ((0, 0), (0, 2), (0, 2), (0, 0)))
    other = images.at[:, 8:].set(3.0).at[:, :, 8:].set(-2.0)
    np.testing.assert_array_equal(see(tower, images).pooled, see(tower, other).pooled)


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        (VISION, {"class_token": False}, "without class token cannot be pooled at it"),
        (TEXT, {"eos_id": None}, "needs that token's eos_id"),
    ],
)
def test_a_tower_that_has_nothing_to_be_pooled_at_is_refused(config, changes, said):
    with pytest.raises(UserError, match=said):
        replace(config, **changes)


def test_a_text_that_is_too_long_is_refused(text):
    with pytest.raises(ValueError, match="texts of 7 tokens"):
        text(jnp.zeros((1, 7), jnp.int32))

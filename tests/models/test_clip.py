"""A CLIP model's embeddings, their cosines, and the images that it takes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import VISION, clip_config, drawn, images, normalised, texts
from PIL import Image
from transformers import CLIPImageProcessorPil

from kdjax.models import CLIP, abstract_of
from kdjax.models.clip import preprocess

RNG = np.random.default_rng(0)
IMAGES, IDS = normalised(images(RNG, 4)), jnp.asarray(texts(RNG, 4))

# One and two layers are unrolled, three are looped over.
DEEP = {"layers": 3}


@pytest.fixture(scope="module")
def clip():
    return drawn(lambda: CLIP(clip_config(), rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def said(clip):
    """The same batch asked for in each way: compiled at once, to save time."""

    def ask(clip):
        return {
            "image": clip.encode_image(IMAGES),
            "text": clip.encode_text(IDS),
            "output": clip(IMAGES, IDS),
            "plain": clip.embeddings(IMAGES, IDS),
            "tokens": clip.embeddings(IMAGES, IDS, tokens=True),
            "traced": clip.embeddings(IMAGES, IDS, hidden=True, attention=True),
        }

    return nnx.jit(ask)(clip)


def cosines(a, b):
    a, b = (np.asarray(x, float) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return a @ b.T / lengths


def test_logits_are_scaled_cosines_of_every_pair(clip, said):
    out, scale = said["output"], np.exp(float(clip.logit_scale[...]))
    expected = scale * cosines(said["image"], said["text"])
    np.testing.assert_allclose(out.logits_per_image, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out.logits_per_text, out.logits_per_image.T)
    for modality in ("image", "text"):
        embeds = getattr(out, f"{modality}_embeds")
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-6)
        same = np.diag(cosines(embeds, said[modality]))
        np.testing.assert_allclose(same, 1, rtol=1e-6)


@pytest.mark.parametrize("way", ["plain", "tokens", "traced"])
def test_objectives_get_raw_embeddings_and_the_scale_itself(clip, said, way):
    np.testing.assert_allclose(said[way].image, said["image"], atol=1e-6)
    np.testing.assert_allclose(said[way].text, said["text"], atol=1e-6)
    expected = np.exp(float(clip.logit_scale[...]))
    assert float(said[way].logit_scale) == pytest.approx(expected, rel=1e-6)


def test_only_what_is_asked_for_comes_along(said):
    shapes = {
        "image_tokens": ("tokens", (4, 4, 8)),
        "text_tokens": ("tokens", (4, 6, 8)),
        "image_hidden": ("traced", (2, 4, 5, 8)),
        "image_attention": ("traced", (2, 4, 2, 5, 5)),
    }
    for name, (asked, shape) in shapes.items():
        for way in ("plain", "tokens", "traced"):
            found = getattr(said[way], name)
            assert (found is None) if way != asked else found.shape == shape


def test_of_wanted_fields_the_wanted_layers_alone_come_along(clip):
    wanted = (("image_hidden", (1,)), ("text_id", ()))
    found = nnx.jit(lambda clip: clip.embed(IMAGES, IDS, wanted=wanted))(clip)
    whole = nnx.jit(lambda clip: clip.embeddings(IMAGES, IDS, hidden=True))(clip)
    np.testing.assert_allclose(found.image_hidden, whole.image_hidden[1:], atol=1e-6)
    assert found.image_attention is found.image_tokens is found.text_tokens is None


@pytest.fixture(scope="module")
def both_dtypes():
    """What a model says that computes in float32, and in bfloat16."""

    def out(dtype):
        config = clip_config(vision=DEEP, text=DEEP, dtype=dtype)
        model = drawn(lambda: CLIP(config, rngs=nnx.Rngs(0)))
        return nnx.jit(lambda clip: clip(IMAGES, IDS))(model)

    return out("float32"), out("bfloat16")


def test_bfloat16_stays_near_float32(both_dtypes):
    exact, near = both_dtypes
    assert near.image_embeds.dtype == near.text_embeds.dtype == jnp.bfloat16
    for name in ("image_embeds", "text_embeds"):
        one, other = getattr(exact, name), getattr(near, name)
        same = np.diag(cosines(one, other))
        assert (same > 0.999).all()
        assert (same < 1).any()


@pytest.mark.parametrize("held", ["float32", "bfloat16"])
def test_parameters_are_held_in_their_own_dtype(held):
    config = clip_config(dtype="bfloat16", param_dtype=held)
    parameters = nnx.to_pure_dict(abstract_of(CLIP, config))
    assert parameters.pop("logit_scale").dtype == "float32"
    assert {x.dtype for x in jax.tree.leaves(parameters)} == {jnp.dtype(held)}


def test_images_are_normalised_as_the_tower_was_trained():
    raw = images(np.random.default_rng(1), 2)
    found = preprocess(jnp.asarray(raw), VISION)
    np.testing.assert_allclose(found, normalised(raw), atol=1e-5)


def pixels_of_transformers(picture, config):
    """Return what the image processor of Hugging Face makes of an image, by Pillow."""
    square = {"height": config.image_size, "width": config.image_size}
    shortest = config.resize == "shortest"
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": config.image_size} if shortest else square,
        crop_size=square,
        do_center_crop=shortest,
        resample={"bilinear": 2, "bicubic": 3}[config.interpolation],
        image_mean=list(config.mean),
        image_std=list(config.std),
    )
    return processor(Image.fromarray(picture))["pixel_values"][0].transpose(1, 2, 0)


def levels_apart(picture, **changes):
    """Return how many of 256 levels our pixels are from theirs."""
    config = replace(VISION, mean=(0.0,) * 3, std=(1.0,) * 3, **changes)
    found = preprocess(jnp.asarray(picture[None]), config)[0]
    apart = np.abs(np.asarray(found) - pixels_of_transformers(picture, config))
    return 255 * apart


SHAPES = [(12, 12), (50, 37), (37, 50), (16, 27), (27, 16), (1, 50), (50, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_images_of_another_size_are_resized_and_cut_as_by_hugging_face(
    shape, interpolation, resize
):
    """Sizes, crop and rounding are Pillow's; a level more or less where it is close."""
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for size in (8, 32):
        apart = levels_apart(
            picture, image_size=size, interpolation=interpolation, resize=resize
        )
        assert apart.max() < 1.001
        assert apart.mean() < 0.1


def test_an_image_of_the_right_size_is_not_touched():
    raw = jnp.asarray(images(np.random.default_rng(1), 2))
    as_it_is = (raw.astype(jnp.float32) / 255 - jnp.asarray(VISION.mean)) / jnp.asarray(
        VISION.std
    )
    for resize in ("shortest", "squash"):
        for interpolation in ("bicubic", "bilinear"):
            config = replace(VISION, resize=resize, interpolation=interpolation)
            np.testing.assert_array_equal(preprocess(raw, config), as_it_is)


def test_a_batch_is_cut_as_each_image_alone():
    batch = np.random.default_rng(2).integers(0, 256, (3, 20, 13, 3)).astype(np.uint8)
    together = jax.jit(preprocess, static_argnums=1)(jnp.asarray(batch), VISION)
    assert together.shape == (3, 8, 8, 3)
    for row, image in zip(together, batch, strict=True):
        alone = preprocess(jnp.asarray(image[None]), VISION)[0]
        np.testing.assert_allclose(row, alone, atol=0.02)

"""A CLIP model's embeddings, their cosines, and the images that it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import VISION, clip_config, drawn, images, normalised, texts
from PIL import Image

from kdjax.models import CLIP, abstract_of
from kdjax.models.clip import preprocess
from kdjax.models.config import VisionConfig

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


@pytest.mark.parametrize("size", [4, 6, 12, 24])
def test_images_of_another_size_are_resized_as_pil_does(size):
    config = VisionConfig(
        **{**vars(VISION), "image_size": size, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    )
    # A smooth picture, with steps at its borders that a cubic overshoots.
    ramp = np.linspace(20, 235, 12)
    picture = np.stack([np.add.outer(ramp, ramp) / 2, np.tile(ramp, (12, 1))], -1)
    picture = np.concatenate([picture, np.zeros((12, 12, 1))], -1).astype(np.uint8)
    picture[:, 6:, 2] = 255
    expected = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
    found = preprocess(jnp.asarray(picture[None]), config)[0]
    # PIL rounds to whole numbers after each of its two passes.
    np.testing.assert_allclose(found, np.asarray(expected) / 255, atol=2 / 255)

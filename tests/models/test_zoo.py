"""Architectures by name: sizes that others have counted, and names that are wrong."""

import math

import jax
import pytest
from flax import nnx

from kdjax.errors import UserError
from kdjax.models import CLIP, abstract_of, architecture, architecture_names
from kdjax.models.zoo import with_vocabulary


def count(shapes):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


def shapes(name):
    return nnx.to_pure_dict(abstract_of(CLIP, architecture(name)))


# As OpenAI's released models have.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vit-b-32", 151_277_313),
        ("vit-b-16", 149_620_737),
        ("vit-l-14", 427_616_513),
    ],
)
def test_a_released_architecture_has_as_many_parameters(name, parameters):
    assert count(shapes(name)) == parameters


def test_the_student_of_clip_kd_sees_with_five_and_a_half_million_parameters():
    assert count(shapes("vit-t-16")["vision"]) / 1e6 == pytest.approx(5.5, abs=0.05)


def test_the_student_of_clip_kd_has_the_sizes_of_the_paper():
    config = architecture("vit-t-16")
    vision, text = config.vision, config.text
    assert (vision.width, vision.layers, vision.num_heads) == (192, 12, 3)
    assert (vision.image_size, vision.patch_size, vision.num_patches) == (224, 16, 196)
    assert (text.width, text.layers, text.num_heads) == (384, 12, 6)
    assert (text.vocab_size, text.context_length, text.eos_id) == (49_408, 77, 49_407)
    assert config.embed_dim == 512


@pytest.mark.parametrize("name", architecture_names())
def test_every_architecture_can_be_built(name):
    config = architecture(name)
    parameters = shapes(name)
    assert parameters["visual_projection"]["kernel"].shape == (
        config.vision.width,
        config.embed_dim,
    )
    for name, tower in (("vision", config.vision), ("text", config.text)):
        blocks = parameters[name]["transformer"]["blocks"]
        assert {x.shape[0] for x in jax.tree.leaves(blocks)} == {tower.layers}
    assert config.vision.image_size % config.vision.patch_size == 0


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("vit-t16", "vit-t-16"), ("ViT-B-32", "vit-b-32"), ("tiny", "tiny-8")],
)
def test_an_unknown_architecture_names_the_nearest_and_all(wrong, nearest):
    with pytest.raises(UserError) as error:
        architecture(wrong)
    assert f"did you mean {nearest!r}?" in str(error.value)
    assert all(name in str(error.value) for name in architecture_names())


def test_another_vocabulary_changes_nothing_else():
    config = architecture("tiny-16")
    other = with_vocabulary(config, 99, 7)
    assert (other.text.vocab_size, other.text.eos_id) == (99, 7)
    assert with_vocabulary(other, config.text.vocab_size, config.text.eos_id) == config

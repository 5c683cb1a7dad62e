"""Architectures by name: sizes that others have counted, and names that are wrong."""

import json
import math
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from kdjax.errors import UserError
from kdjax.models import (
    CLIP,
    abstract_of,
    architecture,
    architecture_names,
    parameter_counts,
)
from kdjax.models.zoo import with_vocabulary


def shapes(name):
    return nnx.to_pure_dict(abstract_of(CLIP, architecture(name)))


# The published model of these sizes, whose tensors' names and shapes are written down.
PUBLISHED = {
    "vit-s-32": "ViT-S-32",
    "vit-s-16": "ViT-S-16",
    "tinyclip-8m-16": "wkcn--TinyCLIP-ViT-8M-16-Text-3M-YFCC15M",
    "tinyclip-39m-16": "wkcn--TinyCLIP-ViT-39M-16-Text-19M-YFCC15M",
    "tinyclip-40m-32": "wkcn--TinyCLIP-ViT-40M-32-Text-19M-LAION400M",
    "tinyclip-61m-32": "wkcn--TinyCLIP-ViT-61M-32-Text-29M-LAION400M",
    "vit-b-32": "openai--clip-vit-base-patch32",
    "vit-b-16": "openai--clip-vit-base-patch16",
    "vit-l-14": "openai--clip-vit-large-patch14",
}


def published(name):
    """Return the parameters of the tensors in a manifest, by the tensors' names."""
    path = Path(__file__).parents[1] / f"golden/manifests/{PUBLISHED[name]}.json"
    counts = {}
    for tensor, shape in json.loads(path.read_text())["tensors"].items():
        layers = re.search(r"\{(\d+)\.\.(\d+)\}", tensor)
        times = int(layers[2]) - int(layers[1]) + 1 if layers else 1
        counts[tensor] = times * math.prod(shape)
    return counts


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_architecture_has_as_many_parameters_in_every_part(name):
    theirs, ours = published(name), parameter_counts(architecture(name))

    def of(*words):
        return sum(n for k, n in theirs.items() if any(word in k for word in words))

    assert ours.total == sum(theirs.values())
    assert ours.vision == of("vision", "visual")
    assert ours.token_embedding == of("token_embedding")
    assert ours.text == ours.total - ours.vision - of("logit_scale")


def test_the_documents_table_is_what_the_architectures_have():
    text = (Path(__file__).parents[2] / "docs/models.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", text, re.MULTILINE)
    table = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    for name in architecture_names():
        config, counts = architecture(name), parameter_counts(architecture(name))
        towers = (config.vision, config.text)
        sizes = [f"{t.layers} / {t.width} / {t.num_heads}" for t in towers]
        millions = [
            f"{count / 1e6:.3f}"
            for count in (
                counts.vision,
                counts.text - counts.token_embedding,
                counts.token_embedding,
                counts.total,
            )
        ]
        assert table[name] == [*sizes, str(config.embed_dim), *millions], name


def test_the_student_of_clip_kd_sees_with_five_and_a_half_million_parameters():
    trunk = sum(x.size for x in jax.tree.leaves(shapes("vit-t-16")["vision"]))
    assert trunk / 1e6 == pytest.approx(5.525, abs=5e-4)


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

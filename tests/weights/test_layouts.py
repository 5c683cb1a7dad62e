"""The tables name every tensor of every published checkpoint, in its shape."""

import json
import re

import jax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from weights.golden_models import GOLDEN

from kdjax.models import CLIP, abstract_of
from kdjax.weights.layouts import LAYOUTS, write_config
from kdjax.weights.rules import shapes_of_theirs

MANIFESTS = sorted((GOLDEN / "manifests").glob("*.json"))
COUNTS = json.loads((GOLDEN / "parameter_counts.json").read_text())


def layout_and_config(original, values):
    """Return the layout of an original class, and our config of its."""
    named = {"transformers.CLIPModel": "clip", "transformers.SiglipModel": "siglip"}
    layout = LAYOUTS[named.get(original, original)]
    return layout, layout.read(values, {})


def expand(tensors):
    """Undo the manifest's short form: one entry for all layers of a stack."""
    shapes = {}
    for name, shape in tensors.items():
        found = re.search(r"\{(\d+)\.\.(\d+)\}", name)
        layers = range(int(found[1]), int(found[2]) + 1) if found else [None]
        for layer in layers:
            full = name.replace(found[0], str(layer)) if found else name
            shapes[full] = tuple(shape)
    return shapes


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_tensor_of_a_real_checkpoint_is_accounted_for(path):
    manifest = json.loads(path.read_text())
    layout, config = layout_and_config(manifest["original"], manifest["config"])
    ours = nnx.to_pure_dict(abstract_of(CLIP, config))
    assert shapes_of_theirs(layout.rules(config), ours) == expand(manifest["tensors"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_config_of_a_real_checkpoint_can_be_written_again(path):
    manifest = json.loads(path.read_text())
    layout, config = layout_and_config(manifest["original"], manifest["config"])
    # It raises where what is written would not be read as what was.
    assert layout.config_file in write_config(config, layout)


@settings(max_examples=60)
@given(st.sampled_from(COUNTS))
def test_a_model_has_as_many_parameters_as_the_original(case):
    _, config = layout_and_config(case["family"], case["config"])
    ours = nnx.to_pure_dict(abstract_of(CLIP, config))
    count = sum(x.size for x in jax.tree.leaves(ours))
    assert count == case["parameters"]
    towers = {
        "vision": ("vision", "visual_projection"),
        "text": ("text", "text_projection"),
    }
    for tower, parts in towers.items():
        held = [ours[part] for part in parts if ours.get(part) is not None]
        assert sum(x.size for x in jax.tree.leaves(held)) == case[tower]

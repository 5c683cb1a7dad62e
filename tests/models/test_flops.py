"""The formulas against the operations that XLA counts in an unrolled model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from kdjax.models import CLIP, VQAConfig, VQAModel, abstract_of, architecture, graph_of
from kdjax.models.flops import (
    answering_flops,
    caption_flops,
    image_flops,
    vision_flops,
)

# Two layers are unrolled: of a loop XLA counts one turn. Wide, for what is done element
# by element counts there and not here.
SMALL = architecture("tiny-16")
WIDE = replace(
    SMALL,
    vision=replace(SMALL.vision, width=256, num_heads=4, mlp_width=1024),
    text=replace(SMALL.text, width=256, layers=2, num_heads=4, mlp_width=1024),
)
POOLED = replace(
    WIDE,
    vision=replace(WIDE.vision, pooling="attention", class_token=False),
)
VQA = VQAConfig(
    vision=WIDE.vision,
    vocab_size=100,
    question_length=12,
    question_layers=1,
    width=192,
    layers=2,
    num_heads=4,
    num_answers=50,
)
# What is done element by element, as a share of all.
ELEMENTWISE = 0.04
IMAGE = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


def counted(model, config, call, *inputs):
    """What XLA counts in the program before it is compiled."""

    def run(params, *inputs):
        return call(nnx.merge(graph_of(model, config), params), *inputs)

    params = nnx.to_pure_dict(abstract_of(model, config))
    return jax.jit(run).lower(params, *inputs).cost_analysis()["flops"]


def ids(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


@pytest.mark.parametrize("config", [WIDE, POOLED])
def test_an_image_costs_what_xla_counts(config):
    xla = counted(CLIP, config, CLIP.encode_image, IMAGE)
    assert image_flops(config) == pytest.approx(xla, rel=ELEMENTWISE)
    assert image_flops(config) < xla


def test_some_patches_cost_less():
    keep = ids(1, 4)
    xla = counted(
        CLIP, WIDE, lambda model, x, keep: model.encode_image(x, keep=keep), IMAGE, keep
    )
    assert image_flops(WIDE, 4) == pytest.approx(xla, rel=ELEMENTWISE)


def test_a_text_costs_what_xla_counts():
    xla = counted(CLIP, WIDE, CLIP.encode_text, ids(1, 20))
    assert caption_flops(WIDE, 20) == pytest.approx(xla, rel=ELEMENTWISE)


def test_answers_cost_what_xla_counts():
    xla = counted(VQAModel, VQA, VQAModel.__call__, IMAGE, ids(1, 6, 12))
    expected = vision_flops(VQA.vision) + answering_flops(VQA, 6)
    assert expected == pytest.approx(xla, rel=ELEMENTWISE)


def test_vit_b_16_is_as_large_as_published():
    """17.6 billion multiply-adds at 224 pixels, as timm's tables have it."""
    flops = image_flops(architecture("vit-b-16"))
    assert flops == pytest.approx(2 * 17.58e9, rel=0.01)

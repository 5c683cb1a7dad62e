"""A student's weights are some of its teacher's: which, and which cannot be."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from models.sample import clip_config, drawn
from weights.golden_models import GOLDEN
from weights.selection import by_magnitude, flat, shuffled

from kdjax.errors import UserError
from kdjax.models import CLIP, architecture
from kdjax.weights import inherit, load_clip, with_structure_of
from kdjax.weights.loading import resize_positions

WIDE = {"width": 12, "num_heads": 3, "layers": 4, "mlp_width": 10}
NARROW = {"width": 8, "num_heads": 2, "layers": 2, "mlp_width": 6}
SIGMOID = {
    "visual_projection": False,
    "text_projection_bias": True,
    "logit_bias_init": -10.0,
}
SIGMOID_VISION = {
    "pooling": "attention",
    "class_token": False,
    "pre_norm": False,
    "patch_bias": True,
}


def softmax_config(sizes, embed_dim):
    return clip_config(vision=sizes, text=sizes, embed_dim=embed_dim)


def sigmoid_config(sizes):
    vision = {**sizes, **SIGMOID_VISION}
    text = {**sizes, "pooling": "last", "causal": False}
    return clip_config(vision=vision, text=text, embed_dim=sizes["width"], **SIGMOID)


PAIRS = {
    "softmax": (softmax_config(WIDE, 9), softmax_config(NARROW, 6)),
    "sigmoid": (sigmoid_config(WIDE), sigmoid_config(NARROW)),
}


def model_of(config, seed=0):
    return drawn(lambda: CLIP(config, rngs=nnx.Rngs(0)), seed)


def assert_same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(x, other[name], err_msg=name)


def golden(*names):
    return [load_clip(str(GOLDEN / "inherited" / name)) for name in names]


def test_by_index_it_is_what_the_original_code_takes():
    teacher, theirs = golden("teacher", "even")
    assert_same(inherit(teacher, theirs.config, by="index"), theirs)


def test_at_depths_that_do_not_divide_it_reaches_further_than_the_original():
    """Which rounds the distance between layers down: of six it takes the first four."""
    teacher, theirs = golden("teacher", "uneven")
    ours, theirs = flat(inherit(teacher, theirs.config, by="index")), flat(theirs)
    taken = {"vision": [0, 1, 3, 4], "text": [0, 1, 2]}
    for name, x in flat(teacher).items():
        if "/blocks/" not in name:
            np.testing.assert_array_equal(ours[name], theirs[name])
            continue
        layers = taken[name.split("/")[0]]
        part = tuple(slice(size) for size in theirs[name].shape[1:])
        np.testing.assert_array_equal(ours[name], x[layers][:, *part])
        np.testing.assert_array_equal(theirs[name], x[: len(layers)][:, *part])


@st.composite
def configs(draw):
    """Small configs of both families."""

    def sizes():
        heads = draw(st.integers(1, 3))
        return {
            "width": heads * draw(st.integers(1, 3)),
            "num_heads": heads,
            "layers": draw(st.integers(1, 4)),
            "mlp_width": draw(st.integers(1, 6)),
        }

    vision, text = sizes(), sizes()
    if draw(st.booleans()):
        vision |= {"class_token": draw(st.booleans()), "pooling": "mean"}
        return clip_config(vision=vision, text=text, embed_dim=draw(st.integers(1, 8)))
    joint = {"embed_dim": vision["width"], **SIGMOID}
    return clip_config(vision=vision | SIGMOID_VISION, text=text, **joint)


@settings(max_examples=10)
@given(config=configs(), by=st.sampled_from(["index", "magnitude"]))
def test_a_student_as_large_as_its_teacher_is_its_teacher(config, by):
    teacher = model_of(config)
    assert_same(inherit(teacher, config, by=by), teacher)


@pytest.mark.parametrize("family", PAIRS)
def test_by_index_a_students_student_is_its_teachers(family):
    """Where the depths divide."""
    large, small = PAIRS[family]
    sizes = {**NARROW, "layers": 4, "mlp_width": 9}
    middle = replace(
        small,
        vision=replace(small.vision, **sizes),
        text=replace(small.text, **sizes, context_length=5),
    )
    small = replace(small, text=replace(small.text, context_length=4))
    teacher = model_of(large)
    direct = inherit(teacher, small, by="index")
    assert_same(
        inherit(inherit(teacher, middle, by="index"), small, by="index"), direct
    )


@pytest.mark.parametrize("family", PAIRS)
def test_by_magnitude_the_largest_norms_are_taken_in_order(family):
    large, small = PAIRS[family]
    teacher = model_of(large)
    found = flat(inherit(teacher, small, by="magnitude"))
    expected = by_magnitude(teacher, small)
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    first = flat(inherit(teacher, small, by="index"))
    assert any((found[name] != first[name]).any() for name in found)


def test_of_equal_norms_the_first_are_taken():
    large, small = PAIRS["softmax"]
    teacher = model_of(large)
    graph, state = nnx.split(teacher)
    state = jax.tree.map(jnp.ones_like, state)
    # Told apart by nothing but where they stand.
    places = state["vision"]["position_embedding"]
    places[...] = jnp.tile(jnp.array([1.0, -1.0] * 6), (len(places), 1))
    teacher = nnx.merge(graph, state)
    one, other = (inherit(teacher, small, by=by) for by in ("magnitude", "index"))
    assert_same(one, other)


outputs = nnx.jit(lambda clip, images, ids: clip(images, ids).logits_per_image)


@pytest.mark.parametrize("family", PAIRS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_by_magnitude_the_order_of_the_teachers_channels_does_not_matter(family, seed):
    large, small = PAIRS[family]
    teacher = model_of(large)
    other = shuffled(teacher, seed)
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.normal(size=(3, 8, 8, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(0, 20, (3, 6)))
    for one, two in (
        (teacher, other),
        [inherit(clip, small, by="magnitude") for clip in (teacher, other)],
    ):
        expected, found = outputs(one, images, ids), outputs(two, images, ids)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("by", ["index", "magnitude"])
def test_positions_are_resized_and_those_of_texts_cut(by):
    large, small = (
        clip_config(vision={"width": width}, text={"width": width}) for width in (8, 4)
    )
    small = replace(
        small,
        vision=replace(small.vision, image_size=12, num_heads=1),
        text=replace(small.text, context_length=4, num_heads=1),
    )
    teacher = model_of(large)
    found = inherit(teacher, small, by=by)
    same = inherit(
        teacher, replace(small, vision=replace(small.vision, image_size=8)), by=by
    )
    before, after = (
        np.asarray(clip.vision.position_embedding[...]) for clip in (same, found)
    )
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1:], resize_positions(before[1:], 2, 3), atol=1e-6)
    assert found.text.position_embedding[...].shape == (4, 4)


def test_parameters_are_held_as_the_student_holds_them():
    large, small = PAIRS["sigmoid"]
    half = replace(large, param_dtype="bfloat16")
    for by in ("index", "magnitude"):
        assert_same(inherit(model_of(half), half, by=by), model_of(half))
    found = inherit(model_of(large), replace(small, param_dtype="bfloat16"), by="index")
    assert found.vision.patch_embedding.kernel.dtype == jnp.bfloat16
    assert found.logit_scale.dtype == jnp.float32


def test_all_that_does_not_fit_is_said_at_once():
    large, small = PAIRS["softmax"]
    wrong = replace(
        small,
        vision=replace(
            small.vision,
            width=16,
            layers=5,
            num_heads=2,
            patch_size=8,
            activation="gelu_tanh",
            mean=(0.5, 0.5, 0.5),
        ),
        text=replace(small.text, mlp_width=11, vocab_size=21, context_length=7),
        embed_dim=10,
        text_projection_bias=True,
        logit_bias_init=0.0,
    )
    with pytest.raises(UserError) as error:
        inherit(model_of(large), wrong, by="index")
    for said in (
        "vision.width 16 is more than the teacher's 12",
        "vision.layers 5 is more than the teacher's 4",
        "vision.head width 8 is not the teacher's 4",
        "vision.patch_size 8 is not the teacher's 4",
        "vision.activation 'gelu_tanh' is not the teacher's 'gelu'",
        "vision.mean (0.5, 0.5, 0.5) is not the teacher's (0.4, 0.5, 0.6)",
        "text.mlp_width 11 is more than the teacher's 10",
        "text.vocab_size 21 is not the teacher's 20",
        "text.context_length 7 is more than the teacher's 6",
        "embed_dim 10 is more than the teacher's 9",
        "text_projection_bias True is not the teacher's False",
        "logit_bias_init 0.0 is not the teacher's None",
    ):
        assert said in str(error.value)
    assert "layers 2" not in str(error.value)


def test_an_unknown_measure_is_refused():
    config = PAIRS["softmax"][0]
    with pytest.raises(UserError, match="by 'luck'; give index or magnitude"):
        inherit(model_of(config), config, by="luck")


@pytest.mark.parametrize("family", PAIRS)
def test_an_architecture_takes_its_structure_of_a_teacher(family):
    large, small = PAIRS[family]
    zoo = architecture("tiny-8")
    found = with_structure_of(zoo, large)
    for tower in ("vision", "text"):
        ours, theirs = getattr(found, tower), getattr(zoo, tower)
        for key in ("width", "layers", "num_heads", "mlp_width", "attention"):
            assert getattr(ours, key) == getattr(theirs, key)
        assert ours.activation == getattr(large, tower).activation
    assert (found.vision.image_size, found.vision.patch_size) == (64, 8)
    assert found.text.vocab_size == 20
    assert found.text.context_length == large.text.context_length == 6
    assert found.embed_dim == (64 if large.visual_projection else 32)
    assert found.logit_bias_init == large.logit_bias_init
    other = clip_config(vision=NARROW, text=NARROW, embed_dim=8)
    inherit(model_of(large), with_structure_of(other, large), by="index")
    assert with_structure_of(small, large) == small

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.models.config import TransformerConfig
from kdjax.objectives import build_objective, objective_names
from kdjax.objectives.registry import REGISTRY

WEIGHTS = st.floats(0, 100, width=32)


def embeddings(seed, width):
    rng = np.random.default_rng(seed)
    image, text, masked = (
        jnp.asarray(rng.normal(size=(4, width)), "float32") for _ in "abc"
    )
    logits, targets = (jnp.asarray(rng.uniform(size=(4, 3)), "float32") for _ in "ab")
    return Embeddings(
        image=image,
        text=text,
        masked_image=masked,
        logit_scale=jnp.float32(5),
        image_tokens=jnp.asarray(rng.normal(size=(4, 4, 2)), "float32"),
        image_hidden=jnp.asarray(rng.normal(size=(1, 4, 4, 2)), "float32"),
        image_attention=jnp.full((1, 4, 1, 4, 4), 0.25),
        class_logits=logits,
        class_targets=targets,
    )


STUDENT, TEACHER = embeddings(0, 3), embeddings(1, 3)
TOWER = TransformerConfig(width=2, layers=1, num_heads=1, mlp_width=1)


def build(spec, student=3, teacher=3, **options):
    return build_objective(
        spec,
        student_width=student,
        teacher_width=teacher,
        student_vision=TOWER,
        teacher_vision=TOWER,
        rngs=nnx.Rngs(0),
        **options,
    )


NAMES = objective_names()
EVERYTHING = {name: {} for name in NAMES}
UNWEIGHTED = {
    name: float(term) for name, term in build(EVERYTHING)(STUDENT, TEACHER)[1].items()
}


@settings(max_examples=10)
@given(weights=st.lists(WEIGHTS, min_size=len(NAMES), max_size=len(NAMES)))
def test_the_total_is_linear_in_weights_and_terms_are_without_them(weights):
    chosen = dict(zip(NAMES, weights, strict=True))
    total, terms = build({k: {"weight": w} for k, w in chosen.items()})(
        STUDENT, TEACHER
    )
    assert {name: float(term) for name, term in terms.items()} == UNWEIGHTED
    expected = sum(weight * UNWEIGHTED[name] for name, weight in chosen.items())
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_so_is_the_gradient():
    def gradient(spec):
        objective = build(spec)
        return jax.grad(lambda s: objective(s, TEACHER)[0])(STUDENT).image

    both = gradient({"clip": {"weight": 2.0}, "fd": {"weight": 0.5}})
    apart = 2 * gradient({"clip": {}}) + 0.5 * gradient({"fd": {"weight": 1.0}})
    np.testing.assert_allclose(both, apart, rtol=1e-4, atol=1e-6)


def test_whole_numbers_are_weights_and_scales_too():
    total, terms = build({"crd": {"weight": 3, "teacher_scale": 2}})(STUDENT, TEACHER)
    assert float(total) == pytest.approx(3 * float(terms["crd"]), rel=1e-6)


PARTS = {
    ("siglip", "siglip_distill"): "bias",
    ("icl", "cross_kd"): "parts/0/scale",
    ("afd",): "parts/0/fusion/scale",
}


@pytest.mark.parametrize("names", PARTS)
def test_a_part_is_there_once_for_all_that_learn_it(names):
    alone = [leaves(build({name: {}}, teacher=8)) for name in names]
    assert all(PARTS[names] in found for found in alone)
    together = leaves(build({name: {} for name in names}, teacher=8))
    assert together == alone[0] | alone[-1]
    assert PARTS[names] not in leaves(build({"fd": {}, "crd": {}}, teacher=8))


def test_objectives_that_share_a_scale_move_the_same_number():
    objective = build({"icl": {}, "cross_kd": {}})
    before = objective(STUDENT, TEACHER)[1]
    objective.parts[0].scale[...] *= 2
    after = objective(STUDENT, TEACHER)[1]
    assert all(float(after[name]) != float(before[name]) for name in before)


def test_the_bias_of_a_sigmoid_loss_is_learnt_unless_the_student_has_one():
    spec = {"siglip": {}, "siglip_distill": {}}
    learnt = build(spec)
    assert leaves(learnt) == {"bias": ()}
    assert float(learnt.bias[...]) == -10
    assert leaves(build(spec, student_bias=True)) == {}
    own = replace(STUDENT, logit_bias=jnp.float32(-10))
    assert float(build(spec, student_bias=True)(own, TEACHER)[0]) == float(
        learnt(STUDENT, TEACHER)[0]
    )


def test_fusion_heads_take_both_widths_to_the_students():
    heads = {
        f"parts/0/fusion/{modality}/{part}": shape
        for modality in ("image", "text")
        for part, shape in (("kernel", (11, 3)), ("bias", (3,)))
    }
    assert leaves(build({"afd": {}}, teacher=8)) == heads | {"parts/0/fusion/scale": ()}


def leaves(objective):
    return {
        "/".join(map(str, path)): leaf.shape
        for path, leaf in nnx.to_flat_state(nnx.state(objective, nnx.Param))
    }


def test_heads_exist_where_widths_differ_and_a_term_compares_embeddings():
    heads = {
        f"parts/0/projection/{modality}/{part}": shape
        for modality in ("image", "text")
        for part, shape in (("kernel", (3, 8)), ("bias", (8,)))
    }
    assert leaves(build({"fd": {}}, teacher=8)) == heads
    assert leaves(build({"icl": {}}, teacher=8)) == heads | {"parts/0/scale": ()}
    assert leaves(build({"icl": {}})) == {"parts/0/scale": ()}
    assert leaves(build({"clip": {}, "crd": {}}, teacher=8)) == {}


def test_learnt_scales_start_where_those_of_the_released_code_do():
    icl, afd = (build({name: {}}).parts[0] for name in ("icl", "afd"))
    for scale in (icl.scale, afd.fusion.scale):
        assert float(scale[...]) == pytest.approx(np.log(1 / 0.07))
        assert scale[...].dtype == jnp.float32


def test_heads_start_with_outputs_as_large_as_their_inputs():
    heads = build({"fd": {}}, student=256, teacher=64).parts[0].projection
    kernel = heads.image.kernel[...]
    assert float(kernel.std()) == pytest.approx(1 / 16, rel=0.03)


def test_masked_images_are_wanted_only_where_they_are_compared():
    objective = build({"fd": {}, "mfd": {}})
    assert objective.wanted() == (("masked_image", ()),)
    assert not objective.wanted(0)
    assert not build({"fd": {}}).wanted()


def test_a_masked_image_goes_through_the_head_of_images():
    wide = embeddings(2, 8)
    objective = build({"fd": {}, "mfd": {}}, teacher=8)
    whole = replace(STUDENT, masked_image=STUDENT.image)
    terms = objective(whole, wide)[1]
    assert float(terms["mfd"]) == pytest.approx(float(terms["fd"]), rel=1e-6)


def test_relations_ignore_the_heads():
    wide = embeddings(2, 8)
    plain = build({"crd": {}}, teacher=8)(STUDENT, wide)[1]
    beside = build("clip_kd", teacher=8)(STUDENT, wide)[1]
    assert float(plain["crd"]) == pytest.approx(float(beside["crd"]), rel=1e-6)


def test_a_student_alone_needs_no_teacher():
    objective = build_objective({"clip": {}}, student_width=3, rngs=nnx.Rngs(0))
    total, terms = objective(STUDENT)
    assert float(total) == float(terms["clip"]) == UNWEIGHTED["clip"]


@pytest.mark.parametrize("name", [n for n in NAMES if REGISTRY[n].needs_teacher])
def test_a_missing_teacher_is_refused_when_built_and_when_called(name):
    message = f"objective {name} needs a teacher; give one, or leave {name} out"
    with pytest.raises(UserError, match=message):
        build({"clip": {}, name: {}}, teacher=None)
    with pytest.raises(UserError, match=message):
        build({"clip": {}, name: {}})(STUDENT)


def test_the_graph_is_a_static_argument_and_equal_for_equal_specs():
    graphs = [nnx.split(build("clip_kd", teacher=8))[0] for _ in range(2)]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])
    assert graphs[0] != nnx.split(build("clip_kd_legacy", teacher=8))[0]

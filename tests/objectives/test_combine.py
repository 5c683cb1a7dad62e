import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives import build_objective
from kdjax.objectives.combine import LEARNT_SCALE_INIT

WEIGHTS = st.floats(0, 100, width=32)


def embeddings(seed, width):
    rng = np.random.default_rng(seed)
    image, text = (jnp.asarray(rng.normal(size=(4, width)), "float32") for _ in "ab")
    return Embeddings(image=image, text=text, logit_scale=jnp.float32(5))


STUDENT, TEACHER = embeddings(0, 3), embeddings(1, 3)


def build(spec, student=3, teacher=3):
    return build_objective(
        spec, student_width=student, teacher_width=teacher, rngs=nnx.Rngs(0)
    )


UNWEIGHTED = {
    name: float(term) for name, term in build("clip_kd")(STUDENT, TEACHER)[1].items()
}


@settings(max_examples=10)
@given(weights=st.lists(WEIGHTS, min_size=4, max_size=4))
def test_the_total_is_linear_in_weights_and_terms_are_without_them(weights):
    chosen = dict(zip(UNWEIGHTED, weights, strict=True))
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


def leaves(objective):
    return {
        "/".join(map(str, path)): leaf.shape
        for path, leaf in nnx.to_flat_state(nnx.state(objective, nnx.Param))
    }


def test_heads_exist_where_widths_differ_and_a_term_compares_embeddings():
    heads = {
        f"projection/{modality}/{part}": shape
        for modality in ("image", "text")
        for part, shape in (("kernel", (3, 8)), ("bias", (8,)))
    }
    assert leaves(build({"fd": {}}, teacher=8)) == heads
    assert leaves(build({"icl": {}}, teacher=8)) == heads | {"scale": ()}
    assert leaves(build({"icl": {}})) == {"scale": ()}
    assert leaves(build({"clip": {}, "crd": {}}, teacher=8)) == {}


def test_the_learnt_scale_starts_where_the_released_code_does():
    scale = build({"icl": {}}).scale[...]
    assert float(scale) == pytest.approx(LEARNT_SCALE_INIT) == np.log(1 / 0.07)
    assert scale.dtype == jnp.float32


def test_heads_start_with_outputs_as_large_as_their_inputs():
    kernel = build({"fd": {}}, student=256, teacher=64).projection.image.kernel[...]
    assert float(kernel.std()) == pytest.approx(1 / 16, rel=0.03)


def test_relations_ignore_the_heads():
    wide = embeddings(2, 8)
    plain = build({"crd": {}}, teacher=8)(STUDENT, wide)[1]
    beside = build("clip_kd", teacher=8)(STUDENT, wide)[1]
    assert float(plain["crd"]) == pytest.approx(float(beside["crd"]), rel=1e-6)


def test_a_student_alone_needs_no_teacher():
    objective = build_objective({"clip": {}}, student_width=3, rngs=nnx.Rngs(0))
    total, terms = objective(STUDENT)
    assert float(total) == float(terms["clip"]) == UNWEIGHTED["clip"]


@pytest.mark.parametrize("name", ["crd", "fd", "icl"])
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

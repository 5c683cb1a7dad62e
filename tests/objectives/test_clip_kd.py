"""CLIP-KD's objectives against its released code, an oracle, and the laws they obey."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import oracle

from kdjax.embeddings import Embeddings
from kdjax.objectives import build_objective
from kdjax.objectives.clip_kd import crd_loss, fd_loss, icl_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "clip_kd.npz"
RELEASED = {"clip": {}, "crd": {}, "fd": {"reduction": "mean"}, "icl": {}}
SUMMED = {"fd": {}, "icl": {"scale": "exp"}}
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def embeddings(x, side):
    parts = {name: x[f"{side}_{name}"] for name in ("image", "text")}
    return Embeddings(**parts, logit_scale=x[f"{side}_scale"])


def answers(spec, x):
    """Every term's value, and its gradients by the names of the arrays in `x`."""
    widths = [x[f"{side}_image"].shape[1] for side in ("student", "teacher")]
    graph, state = nnx.split(
        build_objective(
            spec, student_width=widths[0], teacher_width=widths[1], rngs=nnx.Rngs(0)
        )
    )

    def terms(x):
        objective = nnx.merge(graph, state, copy=True)
        if objective.scale is not None and "learnt_scale" in x:
            objective.scale[...] = x["learnt_scale"]
        for modality in ("image", "text"):
            if objective.projection is not None:
                head = getattr(objective.projection, modality)
                head.kernel[...] = x[f"{modality}_kernel"]
                head.bias[...] = x[f"{modality}_bias"]
        found = objective(embeddings(x, "student"), embeddings(x, "teacher"))[1]
        return found, found

    x = {name: jnp.asarray(array, jnp.float32) for name, array in x.items()}
    gradients, values = jax.jit(jax.jacrev(terms, has_aux=True))(x)
    return jax.tree.map(np.asarray, (values, gradients))


@cache
def golden(case):
    with np.load(GOLDEN) as file:
        prefix = f"{case}/"
        return {k.removeprefix(prefix): file[k] for k in file if k.startswith(prefix)}


@cache
def against_golden(case):
    x = {name: array for name, array in golden(case).items() if "/" not in name}
    return answers(RELEASED, x | {"learnt_scale": np.log(1 / 0.07)})


def far(ours, theirs):
    """The distance relative to the length of the second."""
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("case", ["equal", "wider"])
def test_values_are_those_of_the_released_code(case, name):
    values, _ = against_golden(case)
    assert values[name] == pytest.approx(golden(case)[f"{name}/value"], rel=1e-5)


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("case", ["equal", "wider"])
def test_gradients_are_those_of_the_released_code(case, name):
    prefix = f"{name}/gradient/"
    expected = {
        key.removeprefix(prefix): array
        for key, array in golden(case).items()
        if key.startswith(prefix)
    }
    assert len(expected) >= 2
    for leaf, gradient in against_golden(case)[1][name].items():
        if leaf in expected:
            assert far(gradient, expected[leaf]) < 1e-4, leaf
        else:
            assert not gradient.any(), leaf


def test_an_exponential_scale_is_the_released_one_by_the_chain_rule():
    expected = golden("equal")
    x = {name: array for name, array in expected.items() if "/" not in name}
    c = np.log(1 / 0.07)
    spec = {"icl": {"scale": "exp"}}
    values, gradients = answers(spec, x | {"learnt_scale": np.log(c)})
    assert values["icl"] == pytest.approx(expected["icl/value"], rel=1e-5)
    slope = c * expected["icl/gradient/learnt_scale"]
    assert gradients["icl"]["learnt_scale"] == pytest.approx(slope, rel=1e-4)


ORACLES = {
    ("clip", "released"): oracle.clip,
    ("crd", "released"): oracle.crd,
    ("fd", "released"): oracle.fd_mean,
    ("icl", "released"): oracle.icl,
    ("fd", "summed"): oracle.fd,
    ("icl", "summed"): oracle.icl_exp,
}


@cache
def against_oracle(student, teacher, form):
    x = oracle.inputs(np.random.default_rng(student), 5, student, teacher)
    return x, answers(RELEASED if form == "released" else SUMMED, x)


@pytest.mark.parametrize("widths", [(4, 4), (3, 6)])
@pytest.mark.parametrize(("name", "form"), ORACLES)
def test_values_and_gradients_are_those_of_the_oracle(name, form, widths):
    x, (values, gradients) = against_oracle(*widths, form)
    loss = ORACLES[name, form]
    assert values[name] == pytest.approx(loss(x), rel=1e-5)
    for leaf, gradient in gradients[name].items():
        if leaf.startswith("teacher"):
            assert not gradient.any()
            continue
        expected = oracle.gradient(loss, x, leaf)
        assert np.linalg.norm(gradient - expected) < 1e-4 * max(
            np.linalg.norm(expected), 1e-2
        ), leaf


@cache
def compiled(student, teacher):
    """Every term and its gradients at given widths, with fixed heads."""
    objective = build_objective(
        {"clip": {}, "crd": {}, "fd": {}, "icl": {}},
        student_width=student,
        teacher_width=teacher,
        rngs=nnx.Rngs(0),
    )

    def terms(x):
        found = objective(embeddings(x, "student"), embeddings(x, "teacher"))[1]
        return found, found

    function = jax.jit(jax.jacrev(terms, has_aux=True))

    def run(x, dtype=jnp.float32):
        gradients, values = function(
            {name: jnp.asarray(array, dtype) for name, array in x.items()}
        )
        return jax.tree.map(np.asarray, (values, gradients))

    return run


def drawn(seed, student=4, teacher=6):
    x = oracle.inputs(np.random.default_rng(seed), 5, student, teacher)
    return {name: x[name] for name in x if name.startswith(("student", "teacher"))}


@few
@given(seed=SEEDS, order=st.permutations(range(5)))
def test_the_order_of_a_batch_means_nothing(seed, order):
    def shuffled(arrays):
        return {k: v[order] if np.ndim(v) else v for k, v in arrays.items()}

    x = drawn(seed)
    values, gradients = compiled(4, 6)(x)
    other_values, other_gradients = compiled(4, 6)(shuffled(x))
    for name, value in values.items():
        assert other_values[name] == pytest.approx(value, rel=1e-5, abs=1e-5)
        for leaf, expected in shuffled(gradients[name]).items():
            np.testing.assert_allclose(
                other_gradients[name][leaf],
                expected,
                atol=1e-5 + 1e-4 * np.abs(expected).max(),
            )


@few
@given(seed=SEEDS, sizes=st.lists(st.floats(0.01, 100), min_size=20, max_size=20))
def test_the_lengths_of_embeddings_mean_nothing(seed, sizes):
    x = drawn(seed, teacher=4)
    arrays = [name for name in x if np.ndim(x[name])]
    factors = np.reshape(sizes, (len(arrays), 5, 1))
    scaled = x | {k: x[k] * factor for k, factor in zip(arrays, factors, strict=True)}
    values, gradients = compiled(4, 4)(x)
    scaled_values, _ = compiled(4, 4)(scaled)
    for name, value in values.items():
        assert scaled_values[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
        # A function of directions alone has no slope along the embedding itself.
        for leaf in ("student_image", "student_text"):
            along = (gradients[name][leaf] * x[leaf]).sum(axis=1)
            np.testing.assert_allclose(along, 0, atol=1e-4)


@few
@given(seed=SEEDS)
def test_the_teacher_gets_no_gradient(seed):
    _, gradients = compiled(4, 6)(drawn(seed))
    for by_leaf in gradients.values():
        for leaf in ("teacher_image", "teacher_text", "teacher_scale"):
            assert not by_leaf[leaf].any()


@few
@given(seed=SEEDS)
def test_a_perfect_student_is_where_crd_and_fd_come_to_rest(seed):
    x = drawn(seed, teacher=4)
    perfect = {name: x[name.replace("student", "teacher")] for name in x}
    values, gradients = compiled(4, 4)(perfect)
    for name in ("crd", "fd"):
        assert values[name] == pytest.approx(0, abs=1e-5)
        for gradient in gradients[name].values():
            np.testing.assert_allclose(gradient, 0, atol=1e-4)


@few
@given(seed=SEEDS)
def test_another_student_does_worse(seed):
    values, _ = compiled(4, 4)(drawn(seed, teacher=4))
    assert values["crd"] > 0
    assert 0 < values["fd"] <= 8


@few
@given(seed=SEEDS, width=st.sampled_from([2, 64]))
def test_feature_distillation_is_the_angle_whatever_the_width(seed, width):
    x = drawn(seed, width, width)
    angles = [
        oracle.unit(x[f"student_{m}"]) * oracle.unit(x[f"teacher_{m}"])
        for m in ("image", "text")
    ]
    expected = sum(2 * (1 - angle.sum(axis=1)).mean() for angle in angles)
    pair = [embeddings(as_float32(x), side) for side in ("student", "teacher")]
    summed, mean = (float(fd_loss(*pair, reduction=r)) for r in ("sum", "mean"))
    assert summed == pytest.approx(expected, rel=1e-5)
    assert width * mean == pytest.approx(expected, rel=1e-5)


def as_float32(x):
    return {name: jnp.asarray(array, jnp.float32) for name, array in x.items()}


def test_a_number_takes_the_place_of_the_teachers_scale():
    x = as_float32(drawn(1))
    student = embeddings(x, "student")
    own = embeddings(x | {"teacher_scale": jnp.float32(10)}, "teacher")
    given_number = crd_loss(student, embeddings(x, "teacher"), teacher_scale=10.0)
    assert given_number == crd_loss(student, own)
    assert given_number != crd_loss(student, embeddings(x, "teacher"))


def test_a_calibrated_scale_is_used_unless_the_own_is_asked_for():
    x = as_float32(drawn(1))
    student, teacher = (embeddings(x, side) for side in ("student", "teacher"))
    calibrated = replace(teacher, calibrated_scale=jnp.float32(3))
    three = crd_loss(student, teacher, teacher_scale=3.0)
    assert crd_loss(student, calibrated) == three
    own = crd_loss(student, calibrated, teacher_scale="own")
    assert own == crd_loss(student, teacher)
    assert own != crd_loss(student, calibrated)


def degenerate(kind):
    x = drawn(2, teacher=4)
    rows = [name for name in x if np.ndim(x[name])]
    if kind == "zeros":
        return x | {name: np.zeros_like(x[name]) for name in rows}
    if kind == "a zero row":
        return x | {name: x[name] * (np.arange(5) != 2)[:, None] for name in rows}
    if kind == "duplicates":
        return x | {name: np.repeat(x[name][:1], 5, axis=0) for name in rows}
    return x | {"student_scale": kind, "teacher_scale": kind}


@pytest.mark.parametrize("kind", ["zeros", "a zero row", "duplicates", 1e-3, 1e3])
def test_degenerate_inputs_give_numbers(kind):
    for leaf in jax.tree.leaves(compiled(4, 4)(degenerate(kind))):
        assert np.isfinite(leaf).all()


def test_zero_rows_get_no_gradient():
    _, gradients = compiled(4, 4)(degenerate("a zero row"))
    for name in gradients:
        assert not gradients[name]["student_image"][2].any()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_any_learnt_scale_gives_numbers(scale):
    x = as_float32(drawn(3, teacher=4))
    pair = [embeddings(x, side) for side in ("student", "teacher")]
    found = jax.value_and_grad(lambda c: icl_loss(*pair, scale=c))(jnp.float32(scale))
    assert all(np.isfinite(found))


def test_duplicates_leave_contrast_at_chance():
    values, _ = compiled(4, 4)(degenerate("duplicates"))
    assert values["clip"] == pytest.approx(np.log(5), rel=1e-6)
    assert values["crd"] == pytest.approx(0, abs=1e-6)
    assert values["icl"] == pytest.approx(np.log(5), rel=1e-6)


def test_a_batch_of_one_has_nothing_to_contrast():
    x = {k: v[:1] if np.ndim(v) else v for k, v in drawn(4, teacher=4).items()}
    values, gradients = compiled(4, 4)(x)
    assert values["clip"] == values["crd"] == values["icl"] == 0
    assert values["fd"] > 0
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()


def test_bfloat16_embeddings_accumulate_in_float32():
    rounded = {k: np.asarray(v, jnp.bfloat16) for k, v in drawn(5).items()}
    values, gradients = compiled(4, 6)(rounded, jnp.bfloat16)
    exact_values, exact_gradients = compiled(4, 6)(rounded)
    for name, value in values.items():
        assert value.dtype == np.float32
        assert value == pytest.approx(exact_values[name], rel=1e-6)
        for leaf, gradient in gradients[name].items():
            assert gradient.dtype == jnp.bfloat16
            np.testing.assert_allclose(
                gradient.astype(np.float32),
                exact_gradients[name][leaf],
                rtol=0.01,
                atol=1e-6,
            )

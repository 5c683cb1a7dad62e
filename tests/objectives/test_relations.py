"""All that compare relations: against an oracle, and the laws that they share."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import oracle, oracle_relational
from objectives.terms import program

NAMES = (
    "similarity",
    "rkd",
    "pkt",
    "cka",
    "procrustes",
    "dist",
    "logit_std",
    "dime_fm",
)
# What is 0 where a batch has one member or members that are all alike.
UNDEFINED = ("rkd", "pkt", "cka", "procrustes", "dist", "logit_std")
PLAIN = {name: {} for name in NAMES}
OPTIONS = {
    "similarity": {"form": "kl", "temperature": 0.2},
    "rkd": {"distance": 2.0, "angle": 3.0},
    "cka": {"estimator": "debiased"},
    "dist": {"beta": 1.0, "gamma": 0.5, "temperature": 3.0},
    "logit_std": {"temperature": 1.5},
    "dime_fm": {
        "image_text": 0.2,
        "image_image": 0.6,
        "image_text_temperature": 9.0,
        "image_image_temperature": 20.0,
    },
}
ORACLES = {
    "plain": {name: getattr(oracle_relational, name) for name in NAMES},
    "options": {
        "similarity": lambda x: oracle_relational.similarity_kl(x, 0.2),
        "rkd": lambda x: oracle_relational.rkd(x, 2.0, 3.0),
        "cka": oracle_relational.cka_debiased,
        "dist": lambda x: oracle_relational.dist(x, 1.0, 0.5, 3.0),
        "logit_std": lambda x: oracle_relational.logit_std(x, 1.5),
        "dime_fm": lambda x: oracle_relational.dime_fm(x, 0.2, 0.6, 9.0, 20.0),
    },
}
SPECS = {"plain": PLAIN, "options": OPTIONS}
CASES = [(form, name) for form, spec in SPECS.items() for name in spec]
BATCH = 6
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=10)


@cache
def compiled(form, student, teacher):
    return program(SPECS[form], student, teacher)


def drawn(seed, student=4, teacher=4):
    x = oracle.inputs(np.random.default_rng(seed), BATCH, student, teacher)
    unread = ("learnt", "fusion", "student_masked")
    return {name: array for name, array in x.items() if not name.startswith(unread)}


@cache
def answers(form, student, teacher):
    x = drawn(student, student, teacher)
    return x, compiled(form, student, teacher)(x)


@pytest.mark.parametrize("widths", [(4, 4), (3, 7), (5, 4)])
@pytest.mark.parametrize(("form", "name"), CASES)
def test_values_and_gradients_are_those_of_the_oracle(form, name, widths):
    x, (values, gradients) = answers(form, *widths)
    loss = ORACLES[form][name]
    assert values[name] == pytest.approx(loss(x), rel=1e-5)
    for leaf, gradient in gradients[name].items():
        if leaf.startswith("teacher"):
            assert not gradient.any()
            continue
        expected = oracle.gradient(loss, x, leaf)
        assert np.linalg.norm(gradient - expected) < 1e-4 * max(
            np.linalg.norm(expected), 1e-2
        ), leaf


def finite(answer):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(answer))


@pytest.mark.parametrize("form", SPECS)
@few
@given(seed=SEEDS, order=st.permutations(range(BATCH)))
def test_the_order_of_a_batch_means_nothing(form, seed, order):
    def shuffled(arrays):
        return {k: v[order] if np.ndim(v) else v for k, v in arrays.items()}

    x = drawn(seed)
    values, gradients = compiled(form, 4, 4)(x)
    others, other_gradients = compiled(form, 4, 4)(shuffled(x))
    for name, value in values.items():
        assert others[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
        for leaf, expected in shuffled(gradients[name]).items():
            np.testing.assert_allclose(
                other_gradients[name][leaf],
                expected,
                atol=1e-5 + 1e-3 * np.abs(expected).max(),
            )


def turned(x, seed, alike=False):
    """The student's embeddings rotated, each modality its own way unless alike."""
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in "it"]
    rotations = dict(
        zip(("image", "text"), turns[:1] * 2 if alike else turns, strict=True)
    )
    return x | {
        f"student_{m}": 3.0 * x[f"student_{m}"] @ r for m, r in rotations.items()
    }


@pytest.mark.parametrize("form", SPECS)
@few
@given(seed=SEEDS)
def test_a_rotation_and_a_scale_mean_nothing(form, seed):
    x = drawn(seed)
    values, _ = compiled(form, 4, 4)(x)
    apart, _ = compiled(form, 4, 4)(turned(x, seed))
    together, _ = compiled(form, 4, 4)(turned(x, seed, alike=True))
    for name in ("similarity", "rkd", "pkt", "cka", "procrustes"):
        if name in values:
            assert apart[name] == pytest.approx(values[name], rel=1e-4, abs=1e-5)
    # What compares images with texts needs the rotation to be the same for both.
    for name in ("dist", "logit_std"):
        assert together[name] == pytest.approx(values[name], rel=1e-4, abs=1e-5)
        assert apart[name] != pytest.approx(values[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("form", SPECS)
@few
@given(seed=SEEDS)
def test_lengths_of_rows_mean_nothing_where_embeddings_are_normalised(form, seed):
    x = drawn(seed)
    lengths = np.exp(np.random.default_rng(seed).normal(size=(BATCH, 1)))
    values, _ = compiled(form, 4, 4)(x)
    scaled, _ = compiled(form, 4, 4)(
        {k: v * lengths if np.ndim(v) else v for k, v in x.items()}
    )
    for name in values.keys() - {"cka", "procrustes"}:
        assert scaled[name] == pytest.approx(values[name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("form", SPECS)
@few
@given(seed=SEEDS)
def test_a_perfect_student_is_where_all_come_to_rest(form, seed):
    x = drawn(seed)
    perfect = {name: x[name.replace("student", "teacher")] for name in x}
    values, gradients = compiled(form, 4, 4)(perfect)
    for name, value in values.items():
        assert value == pytest.approx(0, abs=2e-6)
        for gradient in gradients[name].values():
            np.testing.assert_allclose(gradient, 0, atol=1e-4)


@pytest.mark.parametrize("form", SPECS)
@few
@given(seed=SEEDS)
def test_any_other_student_costs_something(form, seed):
    values, _ = compiled(form, 4, 4)(drawn(seed))
    assert all(value > 1e-4 for value in values.values())


@pytest.mark.parametrize("form", SPECS)
@pytest.mark.parametrize("sides", [("student",), ("teacher",), ("student", "teacher")])
@pytest.mark.parametrize("constant", ["ones", "zeros", "a row of both signs"])
def test_members_that_are_all_alike_have_no_relations(form, sides, constant):
    row = {"ones": np.ones(4), "zeros": np.zeros(4)}.get(
        constant, drawn(7)["teacher_text"][0]
    )
    x = drawn(5)
    x |= {
        k: np.tile(row, (BATCH, 1))
        for k in x
        if k.endswith(("image", "text")) and k.startswith(sides)
    }
    values, gradients = compiled(form, 4, 4)(x)
    assert finite((values, gradients))
    for name in values.keys() & set(UNDEFINED):
        assert values[name] == 0
        assert not any(gradient.any() for gradient in gradients[name].values())


@pytest.mark.parametrize("form", SPECS)
def test_a_batch_of_one_has_no_relations(form):
    x = {k: v[:1] if np.ndim(v) else v for k, v in drawn(3).items()}
    values, gradients = compiled(form, 4, 4)(x)
    assert all(value == 0 for value in values.values())
    for by_leaf in gradients.values():
        assert not any(gradient.any() for gradient in by_leaf.values())


@pytest.mark.parametrize("rows", [2, 3])
def test_few_rows_give_numbers(rows):
    x = {k: v[:rows] if np.ndim(v) else v for k, v in drawn(3).items()}
    assert finite(compiled("plain", 4, 4)(x))


def degenerate(kind):
    x = drawn(2)
    names = [name for name in x if np.ndim(x[name])]
    if kind == "a zero row":
        return x | {name: x[name] * (np.arange(BATCH) != 2)[:, None] for name in names}
    if kind == "duplicates":
        return x | {name: x[name][[0, 1, 1, 1, 4, 4]] for name in names}
    if kind == "the student's duplicates":
        ours = [name for name in names if name.startswith("student")]
        return x | {name: x[name][[0, 0, 0, 3, 4, 4]] for name in ours}
    if kind == "opposites":
        return x | {name: np.concatenate([x[name][:3], -x[name][:3]]) for name in names}
    return x | {"student_scale": kind, "teacher_scale": kind}


DEGENERATE = [
    "a zero row",
    "duplicates",
    "the student's duplicates",
    "opposites",
    1e-3,
    1e3,
]


@pytest.mark.parametrize("form", SPECS)
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_inputs_give_numbers(form, kind):
    values, gradients = compiled(form, 4, 4)(degenerate(kind))
    assert finite((values, gradients))
    for by_leaf in gradients.values():
        assert all(np.abs(gradient).max() < 1e3 for gradient in by_leaf.values())


@pytest.mark.parametrize("form", SPECS)
@pytest.mark.parametrize("scale", [1e-3, 1e2])
def test_values_hold_at_any_logit_scale(form, scale):
    x = degenerate(scale)
    values, _ = compiled(form, 4, 4)(x)
    for name, value in values.items():
        assert value == pytest.approx(ORACLES[form][name](x), rel=1e-3)


@pytest.mark.parametrize("form", SPECS)
def test_bfloat16_embeddings_accumulate_in_float32(form):
    rounded = {k: np.asarray(v, jnp.bfloat16) for k, v in drawn(5).items()}
    values, gradients = compiled(form, 4, 4)(rounded, jnp.bfloat16)
    exact_values, exact_gradients = compiled(form, 4, 4)(rounded)
    for name, value in values.items():
        assert value.dtype == np.float32
        assert value == pytest.approx(exact_values[name], rel=1e-5)
        for leaf, gradient in gradients[name].items():
            assert gradient.dtype == jnp.bfloat16
            np.testing.assert_allclose(
                gradient.astype(np.float32),
                exact_gradients[name][leaf],
                rtol=0.01,
                atol=1e-4,
            )

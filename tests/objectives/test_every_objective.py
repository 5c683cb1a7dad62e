"""What holds of every registered objective in each of its forms; new ones included."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import answers, oracle, oracle_classes, oracle_tokens
from objectives.forms import FORMS, has_blocks

from kdjax.objectives.registry import REGISTRY

BATCH = 5

every = pytest.mark.parametrize("form", FORMS)
few = settings(max_examples=5)

# A perfect student goes on: it sharpens what it knows of pairs, or learns a scale, or
# an adaptor to its own tokens, which starts at random.
RESTLESS = {"clip", "siglip", "icl", "cross_kd", "afd", "tokens", "hidden", "bce"}
RESTLESS_FORMS = {"siglip_distill form=mobileclip2"}
# The texts that it compares with are the teacher's, or there are none.
IMAGES_ALONE = {"dime_fm", "tokens", "hidden", "attention"}
# Where an objective needs more than embeddings, what it reads of images.
READ = {
    "masked_image": "masked",
    "image_tokens": "tokens",
    "image_hidden": "hidden",
    "image_attention": "attention",
}
CLASSES = "student_class_logits"


IN_BLOCKS = [form for form, (name, _) in FORMS.items() if has_blocks(name)]
# Of five rows: blocks of two and one of one.
ROWS = 2


@cache
def compiled(teacher_width, block_rows=None):
    """Every form's value with its gradients, of arrays and of what it learns."""
    x = inputs(0, teacher_width)
    asked_for = IN_BLOCKS if block_rows else FORMS
    parts = {
        form: answers.built(dict([FORMS[form]]), x, block_rows=block_rows)
        for form in asked_for
    }

    def asked(form, x):
        graph, learnt = parts[form]

        def term(x, learnt):
            objective = answers.merged(graph, learnt)
            (value,) = objective(*answers.sides(objective, x))[1].values()
            return value

        value, gradients = jax.value_and_grad(term, argnums=(0, 1))(x, learnt)
        return value, gradients[0] | gradients[1]

    function = jax.jit(lambda x: {form: asked(form, x) for form in asked_for})

    def run(x, dtype=jnp.float32):
        arrays = {name: jnp.asarray(array, dtype) for name, array in x.items()}
        return jax.tree.map(np.asarray, function(arrays))

    return run


def inputs(seed, teacher_width=6):
    """Arrays of both sides, of sigmoid models with a classifier on top."""
    rng = np.random.default_rng(seed)
    x = oracle.inputs(rng, BATCH, 4, teacher_width)
    x |= oracle_tokens.towers(rng, BATCH, alike=teacher_width == 4)
    x |= oracle_classes.inputs(rng, BATCH, 3)
    x["student_text_id"] = rng.integers(3, size=(BATCH, 1))
    sides = {name: x[name] for name in x if name.startswith(("student", "teacher"))}
    return sides | {"student_bias": np.array(-3.0), "teacher_bias": np.array(-2.0)}


def rows_of(x):
    return [name for name in x if np.ndim(x[name])]


@every
@few
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(BATCH)))
def test_the_order_of_a_batch_means_nothing(form, seed, order):
    x = inputs(seed)
    rows = rows_of(x)
    value, gradients = compiled(6)(x)[form]
    shuffled = x | {name: x[name][order] for name in rows}
    other_value, other_gradients = compiled(6)(shuffled)[form]
    assert other_value == pytest.approx(value, rel=1e-5, abs=1e-5)
    for leaf, gradient in gradients.items():
        expected = gradient[order] if leaf in rows else gradient
        np.testing.assert_allclose(
            other_gradients[leaf],
            expected,
            atol=1e-5 + 1e-4 * np.abs(expected).max(),
        )


@every
def test_the_student_learns_and_the_teacher_gets_no_gradient(form):
    _, gradients = compiled(6)(inputs(1))[form]
    for leaf, gradient in gradients.items():
        if leaf.startswith("teacher"):
            assert not gradient.any(), leaf
    entry = REGISTRY[FORMS[form][0]]
    if entry.of == "classes":
        moves = {leaf for leaf in gradients if gradients[leaf].any()}
        assert CLASSES in moves
        assert not moves & {"student_image", "student_text", "student_scale"}
        return
    assert not gradients[CLASSES].any()
    for name in [READ[field] for field in entry.needs] or ["image"]:
        assert gradients[f"student_{name}"].any(), name
    assert gradients["student_text"].any() or FORMS[form][0] in IMAGES_ALONE


@every
@few
@given(seed=st.integers(0, 2**32 - 1))
def test_a_perfect_student_is_at_rest(form, seed):
    x = inputs(seed, 4)
    x["teacher_masked"] = x["teacher_image"]
    perfect = {k: x.get(k.replace("student", "teacher"), x[k]) for k in x}
    _, gradients = compiled(4)(perfect)[form]
    moves = [leaf for leaf, g in gradients.items() if np.abs(g).max() > 1e-4]
    restless = FORMS[form][0] in RESTLESS or form in RESTLESS_FORMS
    assert bool(moves) == restless, moves


def degenerate(kind):
    x = inputs(2)
    rows = rows_of(x)
    if kind == "zeros":
        return x | {name: np.zeros_like(x[name]) for name in rows}
    if kind == "a zero row":
        kept = np.arange(BATCH) != 2
        return x | {name: (x[name].T * kept).T for name in rows}
    if kind == "duplicates":
        return x | {name: np.repeat(x[name][:1], BATCH, axis=0) for name in rows}
    if kind == "one row":
        return x | {name: x[name][:1] for name in rows}
    classes = {name: kind * x[name] for name in x if name.endswith("class_logits")}
    scales = {"student_scale": np.array(kind), "teacher_scale": np.array(kind)}
    return x | classes | scales


KINDS = ["zeros", "a zero row", "duplicates", "one row", 1e-3, 1e3]


@every
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_inputs_give_numbers(form, kind):
    value, gradients = compiled(6)(degenerate(kind))[form]
    assert np.isfinite(value)
    for leaf, gradient in gradients.items():
        assert np.isfinite(gradient).all(), leaf


@pytest.mark.parametrize("form", IN_BLOCKS)
@pytest.mark.parametrize("kind", ["random", *KINDS])
def test_blocks_of_rows_give_what_the_whole_batch_gives(form, kind):
    x = inputs(3) if kind == "random" else degenerate(kind)
    value, gradients = compiled(6)(x)[form]
    in_blocks, block_gradients = compiled(6, ROWS)(x)[form]
    assert in_blocks == pytest.approx(value, rel=1e-5, abs=1e-5)
    for leaf, expected in gradients.items():
        atol = 1e-5 + 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(block_gradients[leaf], expected, atol=atol)


@every
def test_bfloat16_embeddings_accumulate_in_float32(form):
    rounded = {k: np.asarray(v, jnp.bfloat16) for k, v in inputs(5).items()}
    value, gradients = compiled(6)(rounded, jnp.bfloat16)[form]
    exact, exact_gradients = compiled(6)(rounded)[form]
    assert value.dtype == np.float32
    assert value == pytest.approx(exact, rel=1e-6)
    for leaf, expected in exact_gradients.items():
        np.testing.assert_allclose(
            gradients[leaf].astype(np.float32),
            expected,
            rtol=0.01,
            atol=1e-5 * np.abs(expected).max(),
        )

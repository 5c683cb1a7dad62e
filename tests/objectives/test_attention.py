from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle, oracle_tokens

from kdjax.embeddings import Embeddings
from kdjax.objectives.attention import attention_loss

# Tokens of the student's and of the teacher's grid; one more is a class token.
SIZES = [(4, 4), (5, 5), (9, 4), (4, 9), (10, 5), (5, 10), (10, 4), (4, 5), (2, 5)]


def side(attention):
    maps = jnp.asarray(attention, jnp.float32)
    nothing = jnp.zeros((maps.shape[1], 1))
    return Embeddings(
        image=nothing, text=nothing, logit_scale=jnp.float32(1), image_attention=maps
    )


def inputs(ours, theirs, heads=(2, 3)):
    rng = np.random.default_rng(ours + 100 * theirs)
    return {
        f"{name}_attention": oracle_tokens.maps(rng, 2, 2, count, size, size)
        for name, size, count in zip(
            ("student", "teacher"), (ours, theirs), heads, strict=True
        )
    }


def check(x, heads):
    def loss(ours, theirs):
        return attention_loss(side(ours), side(theirs), heads=heads)

    def expected(x):
        return oracle_tokens.attention(x, [(0, 0), (1, 1)], heads == "matched")

    arrays = [jnp.asarray(a, jnp.float32) for a in x.values()]
    value, gradient = jax.value_and_grad(loss)(*arrays)
    assert float(value) == pytest.approx(expected(x), rel=1e-4, abs=1e-6)
    slopes = oracle.gradient(expected, x, "student_attention")
    np.testing.assert_allclose(gradient, slopes, atol=1e-4 * np.abs(slopes).max())


@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_of_averaged_heads_are_the_oracles(sizes):
    check(inputs(*sizes), "mean")


def test_and_of_heads_one_by_one():
    check(inputs(9, 4, (2, 2)), "matched")


def test_matched_heads_are_compared_in_their_order():
    maps = inputs(4, 4, (2, 2))["teacher_attention"]
    swapped = maps[:, :, ::-1]
    apart = attention_loss(side(swapped), side(maps), heads="matched")
    assert float(apart) > 0.01
    assert float(attention_loss(side(swapped), side(maps))) == pytest.approx(
        0, abs=1e-6
    )


def test_maps_that_look_everywhere_do_so_on_any_grid():
    def even(size):
        return side(np.full((1, 2, 2, size, size), 1 / size))

    assert float(attention_loss(even(9), even(4))) == pytest.approx(0, abs=1e-6)
    # Beside a class token too, where patches of another grid are as many as theirs.
    ours = np.full((1, 2, 2, 10, 10), 0.5 / 9)
    theirs = np.full((1, 2, 2, 5, 5), 0.5 / 4)
    ours[..., 0] = theirs[..., 0] = 0.5
    assert float(attention_loss(side(ours), side(theirs))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["zeros", "one place"])
def test_degenerate_maps_give_numbers(kind):
    ours = np.zeros((1, 2, 1, 4, 4))
    theirs = ours.copy()
    if kind == "one place":
        ours[..., 0] = theirs[..., 1] = 1

    def loss(maps):
        return attention_loss(side(maps), side(theirs))

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(ours, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_softmax_that_looks_elsewhere_still_learns():
    theirs = side(np.eye(4)[None, None, None])

    def loss(logits):
        return attention_loss(side(jax.nn.softmax(logits)), theirs)

    gradient = jax.grad(loss)(40 * jnp.eye(4)[None, None, None, ::-1])
    assert np.isfinite(gradient).all()
    assert (jnp.diagonal(gradient[0, 0, 0]) < -0.2).all()
    rounded = replace(theirs, image_attention=theirs.image_attention.astype("bfloat16"))
    assert attention_loss(rounded, theirs).dtype == jnp.float32

"""Layers compute in bfloat16, and sum what their parameters learn in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import drawn

from kdjax.models.layers import Embed, Linear, add_positions, norm, product, repeated

ROWS, WIDTH = 1023, 4
HALF = {"dtype": jnp.dtype("bfloat16"), "param_dtype": jnp.dtype("float32")}
ONES = jnp.ones((ROWS, 2, WIDTH), jnp.bfloat16)


def learnt(layer, *inputs):
    """Gradients of the sum of what a layer says."""

    def total(layer):
        said = layer(*inputs)
        assert said.dtype == jnp.bfloat16
        return said.astype(jnp.float32).sum()

    return nnx.to_pure_dict(nnx.grad(total)(layer))


# In bfloat16 the nearest to 2 x 1,023 are 2,040 and 2,048.
@pytest.mark.parametrize(
    ("layer", "inputs", "expected"),
    [
        (
            lambda: Linear(WIDTH, 3, ("embed", "mlp"), HALF, nnx.Rngs(0)),
            ONES,
            {"kernel": 2 * ROWS, "bias": 2 * ROWS},
        ),
        (
            lambda: Embed(1, WIDTH, 1.0, HALF, nnx.Rngs(0)),
            jnp.zeros((2, ROWS), int),
            {"embedding": 2 * ROWS},
        ),
        (
            lambda: norm(WIDTH, HALF, nnx.Rngs(0)),
            # Two of four are one deviation above their mean, and two below.
            ONES * jnp.bfloat16([1, -1, 1, -1]),
            {"scale": 2 * ROWS * np.array([1, -1, 1, -1]), "bias": 2 * ROWS},
        ),
    ],
    ids=["linear", "embed", "norm"],
)
def test_what_parameters_learn_is_summed_in_their_own_dtype(layer, inputs, expected):
    for name, gradient in learnt(layer(), inputs).items():
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient * np.ones(1), expected[name], rtol=1e-5)


def test_so_is_what_a_place_and_a_learnt_token_learn():
    def total(place, token):
        placed = add_positions(ONES, place)
        said = jnp.concatenate([repeated(token, ONES), placed], axis=1)
        assert said.dtype == jnp.bfloat16
        return said.astype(jnp.float32).sum()

    place, token = jnp.zeros((2, WIDTH)), jnp.zeros(WIDTH)
    for gradient in jax.grad(total, argnums=(0, 1))(place, token):
        np.testing.assert_array_equal(gradient, ROWS)


def test_a_linear_layer_and_its_gradients_are_those_by_hand():
    layer = drawn(
        lambda: Linear(
            WIDTH,
            3,
            ("embed", "mlp"),
            dict.fromkeys(HALF, jnp.dtype("float32")),
            nnx.Rngs(0),
        )
    )
    rng = np.random.default_rng(0)
    x, told = rng.normal(size=(5, 2, WIDTH)), rng.normal(size=(5, 2, 3))

    def said(layer, x):
        return layer(x)

    out, pull = jax.vjp(said, layer, jnp.float32(x))
    of_layer, of_x = pull(jnp.float32(told))
    kernel, bias = (np.asarray(p[...], float) for p in (layer.kernel, layer.bias))
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(out, x @ kernel + bias, **close)
    np.testing.assert_allclose(of_x, told @ kernel.T, **close)
    by_hand = np.einsum("bnw,bnm->wm", x, told)
    np.testing.assert_allclose(of_layer.kernel[...], by_hand, **close)
    np.testing.assert_allclose(of_layer.bias[...], told.sum((0, 1)), **close)


@pytest.mark.parametrize(("argument", "products"), [(0, 1), (1, 1), ((0, 1), 2)])
def test_what_is_not_asked_for_is_not_computed(argument, products):
    """A frozen kernel costs no product on the way back, nor do images at the first."""

    def total(x, kernel):
        return product(x, kernel).sum()

    x, kernel = jnp.ones((5, WIDTH)), jnp.ones((WIDTH, 3))
    text = str(jax.make_jaxpr(jax.grad(total, argnums=argument))(x, kernel))
    assert text.count("dot_general[") == 1 + products

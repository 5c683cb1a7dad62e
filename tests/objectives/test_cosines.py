import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import oracle

from kdjax.objectives.cosines import normalize, pair_logits

SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def rows(seed, width=6):
    return np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32)


@few
@given(seed=SEEDS, length=st.floats(1e-6, 1e6))
def test_normalized_rows_have_length_one_and_keep_their_direction(seed, length):
    x = rows(seed)
    unit = np.asarray(normalize(jnp.asarray(x * np.float32(length))))
    np.testing.assert_allclose(unit, oracle.unit(x.astype(float)), atol=1e-6)


def test_a_zero_row_stays_zero_and_so_does_its_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(normalize(x), [[0, 0], [0.6, 0.8]], atol=1e-7)
    gradient = jax.grad(lambda x: (normalize(x) * jnp.array([1.0, 2.0])).sum())(x)
    # The gradient of row two is (1, 2) less its part along the row, over the length.
    np.testing.assert_allclose(gradient, [[0, 0], [-0.064, 0.048]], atol=1e-7)


def test_bfloat16_is_normalized_in_float32():
    assert normalize(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32


def test_logits_are_scaled_cosines_of_rows_with_columns():
    images = jnp.array([[2.0, 0.0], [0.0, 5.0]])
    texts = jnp.array([[3.0, 4.0], [0.0, -1.0]])
    expected = [[6.0, 0.0], [8.0, -10.0]]
    np.testing.assert_allclose(pair_logits(images, texts, 10.0), expected, atol=1e-5)

import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle_tokens

from kdjax.objectives.grids import patch_tokens, resample, resampling


@pytest.mark.parametrize(("patches", "to"), [(9, 4), (4, 9), (25, 4), (4, 1), (1, 9)])
def test_weights_are_of_a_triangle_as_wide_as_the_coarser_grids_patches(patches, to):
    expected = oracle_tokens.grid_weights(patches, to)
    np.testing.assert_allclose(resampling(patches, to), expected, atol=1e-6)


def test_what_is_the_same_everywhere_stays_so_on_any_grid():
    same = jnp.ones((2, 9, 3)) * jnp.arange(3.0)
    np.testing.assert_allclose(resample(same, 4), same[:, :4], rtol=1e-6)
    np.testing.assert_allclose(resample(same, 16)[:, :9], same, rtol=1e-6)


def test_tokens_of_the_same_grid_are_as_they_were():
    x = jnp.arange(8.0).reshape(1, 4, 2)
    assert resample(x, 4) is x


def test_rows_and_columns_of_a_grid_keep_their_places():
    # A patch is its row and its column; halving a side averages them with triangles.
    places = np.stack(np.meshgrid(*[np.arange(4.0)] * 2, indexing="ij"), axis=-1)
    found = resample(jnp.asarray(places.reshape(1, 16, 2)), 4)
    near, far = found[0, 0, 0], found[0, 3, 0]
    assert float(near + far) == pytest.approx(3, rel=1e-6)
    np.testing.assert_allclose(found[0, 1], [near, far], rtol=1e-6)


def test_a_class_token_comes_first_and_is_left_out_where_there_is_one():
    x = jnp.arange(10.0).reshape(1, 5, 2)
    np.testing.assert_array_equal(patch_tokens(x), x[:, 1:])
    np.testing.assert_array_equal(patch_tokens(x[:, 1:]), x[:, 1:])

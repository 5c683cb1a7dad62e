import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.errors import UserError
from kdjax.objectives.standardize import (
    orthonormal_hadamard,
    phi_s,
    principal_directions,
)

# Of towers, and of the constructions: powers of two, Paley's two, and products.
WIDTHS = [1, 2, 4, 12, 20, 28, 36, 44, 64, 192, 384, 512, 768, 1024, 1152, 1280, 1408]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hadamard_matrix_is_a_rotation_of_equal_elements(width):
    found = orthonormal_hadamard(width)
    np.testing.assert_allclose(found @ found.T, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(np.abs(found), width**-0.5)


@pytest.mark.parametrize("width", [3, 6, 10, 52, 100, 194])
def test_a_width_without_one_is_refused(width):
    with pytest.raises(UserError, match=f"there is none here of {width}: choose form"):
        orthonormal_hadamard(width)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 12, 20]))
def test_after_phi_s_every_dimension_has_mean_zero_and_variance_one(seed, width):
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(size=width) * 2)
    rows = rng.normal(size=(100, width)) * spread @ rng.normal(size=(width, width)) + 7
    mean, matrix = phi_s(rows.astype(np.float32))
    after = (rows.astype(np.float32) - mean) @ matrix
    np.testing.assert_allclose(after.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(after.var(0), 1, rtol=1e-9)


def test_phi_s_is_a_rotation_and_one_scale():
    rows = np.random.default_rng(0).normal(size=(50, 12)) ** 3
    _, matrix = phi_s(rows)
    scale = np.trace(np.cov(rows.T, bias=True)) / 12
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(12) / scale, atol=1e-12)


def test_phi_s_of_rows_that_are_all_alike_is_a_rotation():
    mean, matrix = phi_s(np.full((3, 4), 2.0))
    np.testing.assert_array_equal(mean, 2.0)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-12)


def test_principal_directions_come_by_the_variance_along_them():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, 5)) * [1, 5, 0.1, 3, 2] + 1
    mean, directions = principal_directions(rows)
    np.testing.assert_allclose(directions.T @ directions, np.eye(5), atol=1e-12)
    along = ((rows - mean) @ directions).var(0)
    assert (np.diff(along) < 0).all()
    assert along.sum() == pytest.approx(rows.var(0).sum())


def test_many_rows_are_as_few_at_a_time():
    rows = np.random.default_rng(2).normal(size=(20_000, 3))
    mean, directions = principal_directions(rows)
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-12)
    expected = np.cov(rows.T, bias=True)
    values = np.linalg.eigvalsh(expected)[::-1]
    np.testing.assert_allclose(
        directions.T @ expected @ directions, np.diag(values), atol=1e-9
    )

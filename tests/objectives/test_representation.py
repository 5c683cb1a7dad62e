from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.embeddings import Embeddings
from kdjax.objectives.representation import cka_loss, procrustes_loss


def both(rows):
    """Embeddings whose images and texts are the same."""
    rows = jnp.asarray(rows, jnp.float32)
    return Embeddings(image=rows, text=rows, logit_scale=jnp.float32(1))


def drawn(seed, rows=8, width=5):
    return np.random.default_rng(seed).normal(size=(rows, width))


# Centred, and of variances that no rotation makes equal.
LINE = [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
CROSS = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
ACROSS = [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, -1.0]]


@pytest.mark.parametrize(
    ("student", "expected"),
    # A line shares one of the cross's two equal axes, nothing with another line.
    [(CROSS, 0.0), (LINE, 1 - 0.5**0.5)],
)
def test_cka_of_a_cross(student, expected):
    found = cka_loss(both(student), both(CROSS))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_what_shares_nothing_is_one_apart():
    assert float(cka_loss(both(LINE), both(ACROSS))) == pytest.approx(1, rel=1e-6)
    procrustes = procrustes_loss(both(LINE), both(ACROSS))
    assert float(procrustes) == pytest.approx(2, rel=1e-6)


def test_procrustes_of_a_line_and_a_cross():
    # Singular values of X^T Y: (2 / root 2) / root 4 and 0.
    found = procrustes_loss(both(LINE), both(CROSS))
    assert float(found) == pytest.approx(2 - 2 * 0.5**0.5, rel=1e-5)


@pytest.mark.parametrize("loss", [cka_loss, procrustes_loss])
def test_a_wider_student_may_keep_what_the_teacher_knows_anywhere(loss):
    teacher = drawn(0, width=3)
    wide = np.pad(teacher, ((0, 0), (0, 4))) @ np.linalg.qr(drawn(1, 7, 7))[0]
    student, moved = both(wide), both(0.1 * wide + drawn(2, 1, 7))
    assert float(loss(student, both(teacher))) == pytest.approx(0, abs=1e-6)
    assert float(loss(moved, both(teacher))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", [cka_loss, procrustes_loss])
def test_the_two_sides_are_as_far_from_each_other(loss):
    one, other = both(drawn(0)), both(drawn(1, width=3))
    assert float(loss(one, other)) == pytest.approx(float(loss(other, one)), rel=1e-5)


def test_random_features_in_a_wide_space_look_alike_unless_debiased():
    one, other = both(drawn(0, 16, 512)), both(drawn(1, 16, 512))
    assert float(cka_loss(one, other)) < 0.1
    assert float(cka_loss(one, other, estimator="debiased")) > 0.7


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_debiased_estimate_needs_four_rows(rows):
    sides = both(drawn(0, rows)), both(drawn(1, rows))
    assert float(cka_loss(*sides, estimator="debiased")) == 0


def test_members_of_equal_distances_have_no_debiased_similarity():
    sides = both(np.eye(6)), both(drawn(0, 6))
    loss = partial(cka_loss, estimator="debiased")
    value, gradient = jax.value_and_grad(loss)(*sides)
    assert float(value) == 0
    assert not gradient.image.any()


def test_procrustes_has_a_gradient_where_singular_values_are_equal():
    """That of the singular vectors themselves would not be a number."""
    value, gradient = jax.value_and_grad(procrustes_loss)(both(CROSS), both(CROSS))
    assert float(value) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient.image, 0, atol=1e-6)


@pytest.mark.parametrize("loss", [cka_loss, procrustes_loss])
def test_a_step_against_the_gradient_brings_a_student_nearer(loss):
    student, teacher = both(drawn(3)), both(drawn(4, width=9))
    value, gradient = jax.value_and_grad(loss)(student, teacher)
    moved = jax.tree.map(lambda x, g: x - 0.1 * g, student, gradient)
    assert float(loss(moved, teacher)) < float(value)

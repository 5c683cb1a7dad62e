from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.embeddings import Embeddings
from kdjax.objectives.logits import dist_loss, logit_std_loss


def of_logits(logits):
    """Embeddings whose cosines are the given ones."""
    cosines = np.asarray(logits, np.float32)
    rest = np.sqrt(1 - (cosines**2).sum(axis=1))
    image = np.concatenate([cosines, rest[:, None]], axis=1)
    text = np.eye(len(cosines), len(cosines) + 1, dtype=np.float32)
    return Embeddings(
        image=jnp.asarray(image), text=jnp.asarray(text), logit_scale=jnp.float32(1)
    )


def drawn(seed, rows=5, size=0.1):
    return size * np.random.default_rng(seed).normal(size=(rows, rows))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def test_dist_is_of_correlations_within_rows_and_within_columns():
    a, b = drawn(0), drawn(1)

    def apart(p, q):
        return 1 - np.mean(
            [np.corrcoef(*pair)[0, 1] for pair in zip(p, q, strict=True)]
        )

    ways = [(softmax(a), softmax(b)), (softmax(a.T), softmax(b.T))]
    within = sum(apart(p, q) for p, q in ways) / 2
    across = sum(apart(p.T, q.T) for p, q in ways) / 2
    sides = of_logits(a), of_logits(b)
    for beta, gamma in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        found = float(dist_loss(*sides, beta=beta, gamma=gamma))
        assert found == pytest.approx(beta * within + gamma * across, rel=1e-4)


def test_dist_of_the_opposite_order_is_two_of_each():
    """A correlation of -1 has a distance of 2, and there are two kinds of weight 2."""
    a = 1e-3 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert float(dist_loss(of_logits(a), of_logits(-a))) == pytest.approx(8, rel=1e-3)


def test_dist_hears_the_teachers_scale_and_logit_std_does_not():
    student, teacher = of_logits(drawn(0)), of_logits(drawn(1))
    calibrated = replace(teacher, calibrated_scale=jnp.float32(30))
    at_30 = dist_loss(student, teacher, teacher_scale=30.0)
    assert dist_loss(student, calibrated) == at_30
    assert dist_loss(student, calibrated, teacher_scale="own") != at_30
    assert logit_std_loss(student, calibrated) == logit_std_loss(student, teacher)


def test_logit_std_takes_shifts_and_scales_of_rows_away():
    """Of rows one way; the other way they are columns, where a shift of all remains."""
    a, b = drawn(0, size=0.05), drawn(1)
    student, teacher = of_logits(2 * a + 0.1), of_logits(b)
    found = logit_std_loss(student, teacher)
    assert float(found) == pytest.approx(
        float(logit_std_loss(of_logits(a), teacher)), rel=1e-4
    )
    louder = replace(student, logit_scale=jnp.float32(100))
    assert logit_std_loss(louder, teacher) == found
    assert float(logit_std_loss(of_logits(a), of_logits(0.5 * a - 0.2))) == (
        pytest.approx(0, abs=1e-5)
    )


def test_logit_std_of_two_rows_knows_which_is_larger():
    # Two entries have z-scores of 1 and -1, so odds of e to 1 at temperature 2.
    a = 0.1 * np.array([[1.0, -1.0], [-1.0, 1.0]])
    p = np.array([np.e, 1]) / (np.e + 1)
    expected = 4 * np.sum(p * np.log(p / p[::-1]))
    found = logit_std_loss(of_logits(a), of_logits(-3 * a))
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [dist_loss, logit_std_loss])
def test_a_row_that_says_nothing_costs_nothing(loss):
    a, b = drawn(0), drawn(1)
    student = of_logits(a)
    silent = replace(student, image=student.image.at[2].set(0))
    value, gradient = jax.value_and_grad(loss)(silent, of_logits(b))
    assert np.isfinite(value)
    assert not gradient.image[2].any()
    assert np.isfinite(gradient.image).all()


@pytest.mark.parametrize("loss", [dist_loss, logit_std_loss])
def test_texts_that_are_all_alike_have_no_gradient(loss):
    student, teacher = of_logits(drawn(0)), of_logits(drawn(1))
    alike = replace(student, text=jnp.tile(student.text[:1], (5, 1)))
    gradient = jax.grad(loss)(alike, teacher)
    for leaf in (gradient.image, gradient.text):
        assert np.abs(leaf).max() < 10

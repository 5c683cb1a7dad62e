import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.errors import UserError
from kdjax.objectives import match_entropy, mean_entropy, mean_row_entropy

SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=20)


def pairs(seed, batch=8, width=6):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(batch, width))
    return image, image + rng.normal(size=(batch, width))


def cosines_of(image, text):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    return unit[0] @ unit[1].T


def test_the_entropy_is_the_mean_over_rows_and_columns():
    # A row of odds 3 to 1 and an even one; both columns have odds of 3 to 1 or even.
    cosines = np.log([[3.0, 1.0], [1.0, 1.0]])
    uneven = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    expected = (uneven + np.log(2)) / 2
    assert mean_row_entropy(cosines, 1.0) == pytest.approx(expected, rel=1e-12)


@few
@given(seed=SEEDS)
def test_the_entropy_falls_from_that_of_chance_as_the_scale_grows(seed):
    cosines = cosines_of(*pairs(seed))
    entropies = [mean_row_entropy(cosines, scale) for scale in (1e-6, 1.0, 3.0, 9.0)]
    assert entropies[0] == pytest.approx(np.log(8), abs=1e-6)
    assert all(np.diff(entropies) < 0)


@few
@given(seed=SEEDS, target=st.floats(0.3, 2.0))
def test_the_scale_found_hits_the_target(seed, target):
    image, text = pairs(seed)
    scale = match_entropy(image, text, target)
    found = mean_row_entropy(cosines_of(image, text), scale)
    assert found == pytest.approx(target, rel=1e-6)


@few
@given(seed=SEEDS, length=st.floats(1e-3, 1e3))
def test_the_length_of_embeddings_does_not_matter(seed, length):
    image, text = pairs(seed)
    expected = match_entropy(image, text, 1.0)
    assert match_entropy(length * image, text, 1.0) == pytest.approx(expected, rel=1e-6)


@few
@given(seed=SEEDS)
def test_the_entropy_is_that_of_batches_as_large_as_those_trained_on(seed):
    image, text = pairs(seed, batch=19)
    scale = match_entropy(image, text, 1.2, rows=6)
    batches = [
        cosines_of(image[i : i + 6], text[i : i + 6]) for i in (0, 6, 12)
    ]  # the nineteenth fills no batch
    found = np.mean([mean_row_entropy(cosines, scale) for cosines in batches])
    assert found == pytest.approx(1.2, rel=1e-6)
    assert mean_entropy(image, text, scale, rows=6) == pytest.approx(found, rel=1e-12)


def test_too_few_pairs_for_a_batch_are_refused():
    with pytest.raises(UserError, match="batches of 9 held-out pairs and there are 8"):
        match_entropy(*pairs(0), 1.0, rows=9)


def test_float32_embeddings_and_zero_rows_will_do():
    image, text = (x.astype(np.float32) for x in pairs(0))
    image[3] = 0
    scale = match_entropy(image, text, 1.5)
    assert 1e-3 < scale < 1e4


@pytest.mark.parametrize("target", [-0.1, np.log(8), 3.0, float("nan")])
def test_a_target_that_no_scale_gives_is_refused(target):
    with pytest.raises(UserError, match=f"no logit scale gives 8 .* of {target} nats"):
        match_entropy(*pairs(0), target)


def test_pairs_that_are_all_alike_have_one_entropy():
    same = np.ones((4, 3))
    with pytest.raises(UserError, match=r"it can be between 1\.39 and 1\.39"):
        match_entropy(same, same, 0.5)

import functools

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives.layers import LAYERS, asked, layer_pairs, of_layers

pairs_of = functools.partial(layer_pairs, "hidden")


def test_layers_count_from_one_or_from_the_last():
    assert pairs_of("1:2,2:4", 2, 4) == ((0, 1), (1, 3))
    assert pairs_of("-1:-1,-2:1", 2, 4) == ((1, 3), (0, 0))


def test_even_pairs_spread_over_both_towers():
    assert pairs_of("even", 2, 4) == ((0, 1), (1, 3))
    assert pairs_of("even", 4, 2) == ((1, 0), (3, 1))
    assert pairs_of("even", 3, 3) == ((0, 0), (1, 1), (2, 2))
    assert pairs_of("even", 2, 3) == ((0, 1), (1, 2))


@given(st.integers(1, 40), st.integers(1, 40))
def test_even_pairs_rise_without_repetition_and_end_with_the_last_ones(one, other):
    pairs = pairs_of("even", one, other)
    assert len(pairs) == min(one, other)
    assert pairs[-1] == (one - 1, other - 1)
    for side in zip(*pairs, strict=True):
        assert asked(side) == side


@pytest.mark.parametrize(
    ("text", "side"), [("3:1", "student has 2"), ("1:-5", "teacher has 4")]
)
def test_a_layer_that_a_tower_lacks_is_refused(text, side):
    expected = f"^layers of objective hidden are '{text}' and the {side}: give pairs"
    with pytest.raises(UserError, match=expected):
        pairs_of(text, 2, 4)


@pytest.mark.parametrize("text", ["", "1", "0:1", "1:2,", "1:2 2:4", "one:two", 1.0])
def test_what_is_no_pairs_is_refused(text):
    with pytest.raises(UserError, match=r"give 'even' or text such as '-1:-1'$"):
        LAYERS.check("layers", text)


def test_layers_are_taken_from_those_that_were_asked_for():
    present = (1, 3)
    stack = jnp.stack([jnp.full((2, 4, 1), float(layer)) for layer in present])
    nothing = jnp.zeros((2, 1))
    side = Embeddings(
        image=nothing, text=nothing, logit_scale=jnp.float32(1), image_hidden=stack
    )
    found = of_layers(side, "image_hidden", (3, 1, 3), present, 4).image_hidden
    assert found[:, 0, 0, 0].tolist() == [3, 1, 3]
    # What has all layers of its tower will do.
    found = of_layers(side, "image_hidden", (1,), (1,), 2).image_hidden
    assert found[:, 0, 0, 0].tolist() == [3]
    with pytest.raises(
        UserError, match=r"^image_hidden has 2 layers and the objective"
    ):
        of_layers(side, "image_hidden", (0,), (0,), 4)

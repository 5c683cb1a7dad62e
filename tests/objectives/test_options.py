import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdjax.errors import UserError
from kdjax.objectives.options import Option, check_options, unknown

EITHER = Option("own", choices=("own",), least=0.5)


@given(st.floats(0.5, 9e37) | st.integers(1, 10**37) | st.just("own"))
def test_a_choice_and_a_number_from_the_least_are_fine(value):
    EITHER.check("scale", value)


@pytest.mark.parametrize(
    "value", [0.49, -1, 1e39, 10**400, math.nan, math.inf, True, None, "other", [1.0]]
)
def test_anything_else_says_what_may_be_given(value):
    with pytest.raises(UserError) as error:
        EITHER.check("scale", value)
    expected = (
        f"scale is {value!r}; give 'own' or a number of at least 0.5 and below 1e+38"
    )
    assert str(error.value) == expected


def test_an_option_without_a_least_is_never_a_number():
    with pytest.raises(UserError, match=r"form is 1\.0; give 'a' or 'b'$"):
        Option("a", choices=("a", "b")).check("form", 1.0)


def test_a_value_that_is_wrong_is_named_with_its_objective():
    check_options("crd", {"scale": 1.0}, {"scale": EITHER})
    with pytest.raises(UserError, match=r"^scale of objective crd is 0\.1"):
        check_options("crd", {"scale": 0.1}, {"scale": EITHER})


def test_an_unknown_name_comes_with_the_nearest_and_with_all():
    assert unknown("fruit", "aple", {"pear": 1, "apple": 2}) == (
        "there is no fruit 'aple'; did you mean 'apple'? (there are pear, apple)"
    )


def test_a_number_may_have_a_most_and_text_a_pattern():
    share = Option(1.0, least=0.01, most=1.0)
    share.check("share", 1)
    with pytest.raises(UserError, match=r"give a number from 0\.01 to 1$"):
        share.check("share", 1.1)
    places = Option("1:1", choices=("even",), pattern="[0-9]:[0-9]")
    places.check("places", "2:3")
    with pytest.raises(UserError, match=r"give 'even' or text such as '1:1'$"):
        places.check("places", "2:3:4")

"""Evaluators by name."""

import pytest

from kdjax.errors import UserError
from kdjax.evaluation.registry import check_evaluators, evaluators_of


def test_models_have_evaluators_of_their_kind():
    assert evaluators_of("clip") == ("zero_shot",)
    assert evaluators_of("vqa") == ("vqa",)
    check_evaluators(("zero_shot",), "clip")


@pytest.mark.parametrize("names", [("zero_shto",), ("zero_shot",), (), "vqa", 3, None])
def test_another_name_is_refused_with_those_there_are(names):
    with pytest.raises(UserError, match=r"eval\.evaluators is .* some of: vqa$"):
        check_evaluators(names, "vqa")

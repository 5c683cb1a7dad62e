import pytest

from kdjax.data.easy_vqa import EasyVQA
from kdjax.data.registry import build_source, source_names
from kdjax.errors import UserError


def test_names_are_sorted():
    assert source_names() == ("easy_vqa", "scenes")


def test_a_source_is_built_with_its_options():
    source = build_source("easy_vqa", "validation", seed=3)
    assert isinstance(source, EasyVQA)
    assert (source.name, source.split, len(source)) == ("easy_vqa", "validation", 400)
    assert source[0].image_id == EasyVQA("validation", seed=3)[0].image_id


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(
        UserError, match="no data set 'easyvqa': did you mean 'easy_vqa'"
    ):
        build_source("easyvqa", "train")


def test_a_far_name_lists_what_there_is():
    with pytest.raises(UserError, match="choose one of easy_vqa, scenes"):
        build_source("imagenet", "train")


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(UserError, match="no option 'sed': did you mean 'seed'"):
        build_source("easy_vqa", "train", sed=1)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="no split 'dev'"):
        build_source("easy_vqa", "dev")

"""Work in a process of its own."""

import os
import tempfile
from pathlib import Path

import pytest

from kdjax.commands.apart import apart
from kdjax.errors import UserError
from kdjax.parallel.topology import parse


def test_what_a_function_returns_comes_back_and_its_folder_goes():
    folder = Path(apart(tempfile.mkdtemp))
    assert folder.is_absolute() and not folder.exists()
    assert not folder.parent.exists()


def test_what_is_wrong_with_the_input_comes_back_as_it_was_said():
    with pytest.raises(UserError, match="the topology is 'v7:2x2'; give a chip"):
        apart(parse, "v7:2x2")


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(UserError, match="the process that did the work died"):
        apart(os._exit, 3)

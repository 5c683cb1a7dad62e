"""A file is there whole or not at all."""

import pytest
from etils import epath

from kdjax.files import write_whole


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    path = epath.Path(tmp_path / "a.json")
    for content in (b"one", b"two"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_was_there_stays_when_the_new_cannot_be_written(tmp_path):
    path = epath.Path(tmp_path / "a.json")
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "text")
    assert path.read_bytes() == b"old"

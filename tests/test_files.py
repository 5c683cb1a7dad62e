"""A file is there whole or not at all."""

import os

import pytest
from etils import epath

from kdjax.errors import UserError
from kdjax.files import copy_file, read_json, write_whole


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


def test_a_copy_is_whole_too(tmp_path):
    source, path = epath.Path(tmp_path / "source"), epath.Path(tmp_path / "a")
    for content in (b"one", b"two"):
        source.write_bytes(content)
        copy_file(source, path)
        assert path.read_bytes() == content
    with pytest.raises(FileNotFoundError):
        copy_file(epath.Path(tmp_path / "nothing"), path)
    assert path.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "source"]


def test_what_is_no_file_is_written_into_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(epath.Path(pipe), b"told")
    assert os.read(reader, 9) == b"told"
    os.close(reader)
    assert pipe.is_fifo() and [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_what_a_link_leads_to_is_written(tmp_path):
    file, link = tmp_path / "a.json", tmp_path / "link"
    link.symlink_to(file)
    write_whole(epath.Path(link), b"told")
    assert link.is_symlink() and file.read_bytes() == b"told"
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "link"}


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing"), ("{", "is not JSON"), ("[1]", "holds no JSON object")],
)
def test_json_that_is_none_is_named(tmp_path, content, said):
    path = epath.Path(tmp_path / "a.json")
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"a\.json {said}"):
        read_json(path)

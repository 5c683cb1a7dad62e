"""Work in a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kdjax.commands.apart import apart
from kdjax.errors import Transient, UserError
from kdjax.parallel.topology import parse


def test_what_a_function_returns_comes_back_and_its_folder_goes():
    folder = Path(apart(tempfile.mkdtemp))
    assert folder.is_absolute() and not folder.exists()
    assert not folder.parent.exists()
    # Where libraries that are not Python's look.
    where = Path(apart(os.getenv, "TMPDIR"))
    assert where.parent == folder.parent.parent and not where.exists()


def test_what_is_wrong_with_the_input_comes_back_as_it_was_said():
    with pytest.raises(UserError, match="the topology is 'v7:2x2'; give a chip"):
        apart(parse, "v7:2x2")


def test_any_other_error_is_what_it_is_and_says_where():
    with pytest.raises(ValueError, match="invalid literal") as failed:
        apart(int, "x")
    assert "in _answer" in failed.value.__notes__[0]


def test_a_process_that_dies_is_one_sentence():
    with pytest.raises(Transient, match="the process that did the work died"):
        apart(os._exit, 3)


def test_what_a_terminal_stops_leaves_nothing_and_says_one_line(tmp_path):
    """A terminal asks all processes that it has started."""
    folder = tmp_path / "folder"
    folder.mkdir()
    program = (
        "import time; from kdjax.commands.apart import apart; "
        "from kdjax.process import listening\n"
        "if __name__ == '__main__':\n"
        "    with listening('stopped'): apart(time.sleep, 60)\n"
    )
    file = tmp_path / "program.py"
    file.write_text(program)
    with subprocess.Popen(
        [sys.executable, str(file)],
        env={**os.environ, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as stopped:
        while not list(folder.iterdir()):
            time.sleep(0.01)
        time.sleep(0.5)
        os.killpg(stopped.pid, signal.SIGINT)
        _, said = stopped.communicate(timeout=30)
    assert stopped.returncode == 128 + signal.SIGINT
    assert said.strip() == "stopped"
    while list(folder.iterdir()):  # the other process ends after this one
        time.sleep(0.01)

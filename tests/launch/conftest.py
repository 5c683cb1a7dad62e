"""Stub executables that record how they were called, and scripts run among them."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """\
#!/usr/bin/env bash
# The words of a call, each ended by a zero byte, and an empty line after the last.
printf '%s\\0' "${0##*/}" "$@" $'\\n' >>"${0%/*}/calls"
mapfile -t answers <"$0.answers"
for i in "${!answers[@]}"; do
  IFS=, read -r asked status text <<<"${answers[i]}"
  for word in "$@"; do
    [[ $word == "$asked" ]] || continue
    unset "answers[i]"
    printf '%s\\n' "${answers[@]}" >"$0.answers"
    [[ ! $text ]] || echo "$text"
    exit "$status"
  done
done
"""
Answer = tuple[str, int] | tuple[str, int, str]


class Stubs:
    """Executables in a folder of their own, which is first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        path = f"{folder}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "HOME": str(folder)}

    def add(self, name: str, *answers: Answer) -> None:
        """Add one that, called with a word, once exits with a status and prints a line.

        With no such answer left it exits with 0.
        """
        stub = self.folder / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(STUB)
        stub.chmod(0o755)
        lines = (",".join(map(str, answer)) for answer in answers)
        Path(f"{stub}.answers").write_text("".join(f"{line}\n" for line in lines))

    def calls(self, folder: str = ".") -> list[list[str]]:
        """Return the command lines since the last time, of the stubs in a folder."""
        record = self.folder / folder / "calls"
        text = record.read_text() if record.exists() else ""
        record.unlink(missing_ok=True)
        return [call.split("\0")[:-1] for call in text.split("\n\0")[:-1]]

    def run(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess:
        """Run a command line among the stubs."""
        environment = {**self.environment, **variables}
        return subprocess.run(words, capture_output=True, text=True, env=environment)

    def dry_run(self, script: Path, *words: str) -> list[list[str]]:
        """Return the command lines that --dry-run prints."""
        done = self.run(script, "--dry-run", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path / "bin")


@pytest.fixture
def script() -> Callable[[str], Path]:
    """Return the path of a script by its name."""
    return lambda name: ROOT / "launch" / name

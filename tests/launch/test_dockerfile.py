"""The image is made of what is there: files of the checkout, extras of the package."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions():
    """Return the instructions in order, each with what follows it."""
    lines = re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", "")
    return [line.split(maxsplit=1) for line in lines.splitlines() if line.strip()]


@pytest.mark.parametrize("extras", re.findall(r"EXTRAS=(\S+)", TEXT))
def test_the_extras_are_those_of_the_package(extras):
    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_what_the_package_is_built_from_is_copied():
    copied = {
        source: target
        for name, words in instructions()
        if name == "COPY"
        for *sources, target in [words.split()]
        for source in sources
    }
    assert all((ROOT / source).exists() for source in copied)
    build = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*build["packages"], *build["force-include"], "pyproject.toml"}
    needed |= {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert set(copied) == needed
    for source, target in copied.items():
        is_folder = (ROOT / source).is_dir()
        assert target == (f"/src/{source}" if is_folder else "/src/")


def test_its_python_is_new_enough():
    (default,) = re.findall(r"^ARG PYTHON=(3\.\d+)$", TEXT, flags=re.MULTILINE)
    needed = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert int(default.split(".")[1]) >= int(needed.split(".")[1])


def test_it_runs_as_a_user_who_is_not_root_after_everything_is_installed():
    names = [name for name, _ in instructions()]
    assert dict(instructions())["USER"] == "${RUN_AS}"
    (user,) = re.findall(r"^ARG RUN_AS=(\d+)$", TEXT, flags=re.MULTILINE)
    assert f"useradd --create-home --uid {user} " in TEXT
    assert names.index("USER") > max(i for i, n in enumerate(names) if n == "RUN")

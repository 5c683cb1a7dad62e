"""Eight devices, and two processes, say what one device says.

Of every form on every mesh `full_product.py` asks it.
"""

import subprocess
import sys

import pytest
from objectives.forms import combinations, has_blocks
from objectives.on_devices import BLOCK_ROWS, Case, ask, together, wrong

# Seconds after which processes are killed, that none of them waits for another forever.
LIMIT = 900
FSDP, MIXED, OF_TWO = (1, 8, 1), (2, 4, 1), (2, 2, 1)
DEFAULTS = combinations()[0]
IN_BLOCKS = {k: v for k, v in DEFAULTS.items() if has_blocks(k)}
# Captions that a batch has twice.
REPEATS = {
    "clip": {"duplicates": "mask"},
    "siglip": {"duplicates": "spread"},
    "icl": {"duplicates": "spread"},
    "afd": {"duplicates": "mask"},
}
# Of so many rows, relations are those of a sample of triples.
SAMPLED, MANY = {"rkd": {}, "gd": {}}, 264

ONE_PROCESS = {
    "dense, fsdp": Case(DEFAULTS, FSDP),
    "dense, mixed": Case(DEFAULTS, MIXED),
    "blocks": Case(IN_BLOCKS, MIXED, BLOCK_ROWS),
    "blocks, repeats": Case(REPEATS, MIXED, BLOCK_ROWS),
    "blocks, sampled": Case(SAMPLED, MIXED, BLOCK_ROWS, MANY),
}
# One of each way to meet the rows of other processes; `make test-full` asks all.
SOME = {k: DEFAULTS[k] for k in ("crd", "gd", "rkd", "cka", "dkd")}
TWO_PROCESSES = {
    "some": Case(SOME, OF_TWO, BLOCK_ROWS),
    "repeats": Case(REPEATS, OF_TWO, BLOCK_ROWS),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one device says, of the first case all that has no duplicates or sample."""
    cases = [Case(DEFAULTS), Case(REPEATS), Case(SAMPLED, batch=MANY)]
    found = ask(cases, tmp_path_factory.mktemp("alone"), 1, 1, LIMIT)
    return dict(zip(("", "repeats", "sampled"), found, strict=True))


def expected(alone, case):
    return alone[next((kind for kind in ("repeats", "sampled") if kind in case), "")]


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    found = ask(list(ONE_PROCESS.values()), folder, 1, 8, LIMIT)
    return dict(zip(ONE_PROCESS, found, strict=True))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    found = ask(list(TWO_PROCESSES.values()), folder, 2, 2, LIMIT)
    return dict(zip(TWO_PROCESSES, found, strict=True))


@pytest.mark.parametrize("case", ONE_PROCESS)
def test_devices_agree(alone, eight_devices, case):
    assert not list(wrong(eight_devices[case], expected(alone, case)))


@pytest.mark.parametrize("case", TWO_PROCESSES)
def test_processes_agree(alone, two_processes, case):
    assert not list(wrong(two_processes[case], expected(alone, case)))


def test_processes_end_when_one_of_them_fails():
    programs = ["raise SystemExit(3)", "import time; time.sleep(600)"]
    started = [subprocess.Popen([sys.executable, "-c", text]) for text in programs]
    assert together(started, LIMIT) == [3, None]
    assert all(process.returncode is not None for process in started)


def test_processes_end_when_they_take_too_long():
    text = "import time; time.sleep(600)"
    started = [subprocess.Popen([sys.executable, "-c", text])]
    assert together(started, 0.1) == [None]
    assert started[0].returncode is not None

"""A GPU host gets what its driver can run, and then runs the command."""

import shutil
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
TRAIN = ["kdjax", "distill", "--config=my configs/a.py:x", "--config.mesh=[4, -1, 1]"]
DRIVER = "--query-gpu=driver_version"


@pytest.fixture
def launch(stubs, script):
    """Run the script on a host with a driver."""
    stubs.add("python3")
    stubs.add("venv/bin/python")
    stubs.add("venv/bin/kdjax", ("distill", 143))

    def run(driver, *words):
        stubs.add("nvidia-smi", (DRIVER, 0, driver))
        words = [script("gpu.sh"), f"--venv={stubs.folder}/venv", *words]
        done = stubs.run(*words)
        calls = stubs.calls()[1:]  # after the question for the driver
        return done, [*calls, *stubs.calls("venv/bin")]

    return run


def test_a_dry_run_prints_what_a_run_does(launch, stubs, script):
    done, calls = launch("580.95.05", "--extras=data", "--", *TRAIN)
    assert (done.returncode, done.stderr) == (143, "")
    root = script("gpu.sh").parents[1]
    assert calls == [
        ["python3", "-m", "venv", f"{stubs.folder}/venv"],
        ["python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "-e", f"{root}[cuda13,data]"],
        TRAIN,
    ]  # fmt: skip
    options = [f"--venv={stubs.folder}/venv", "--extra=cuda13", "--extras=data"]
    printed = stubs.dry_run(script("gpu.sh"), *options, "--", *TRAIN)
    printed[1][0] = printed[1][0].removeprefix(f"{stubs.folder}/venv/bin/")
    assert printed == [*calls[:2], ["exec", *TRAIN]]


@pytest.mark.parametrize(
    ("driver", "extra"),
    [("525.60.13", "cuda12"), ("535.1", "cuda12"), ("575.57", "cuda12"),
     ("580.65", "cuda13"), ("605.1", "cuda13")],
)  # fmt: skip
def test_the_driver_decides_on_cuda(launch, driver, extra):
    done, calls = launch(driver)
    assert done.returncode == 0
    assert len(calls) == 2
    assert calls[1][-1].endswith(f"[{extra},data,gcs]")


@pytest.mark.parametrize(
    ("driver", "complaint"),
    [("470.57", "470.57 is too old"), ("", "finds no driver"), ("[N/A]", "no driver")],
)
def test_an_old_driver_is_refused(launch, driver, complaint):
    done, calls = launch(driver, "--", *TRAIN)
    assert (done.returncode, calls) == (2, [])
    assert complaint in done.stderr and done.stderr.count("\n") == 1


def test_a_host_without_the_tool_of_drivers_is_refused(stubs, script):
    for name in ("bash", "dirname"):
        (stubs.folder / name).symlink_to(shutil.which(name))
    done = stubs.run(script("gpu.sh"), "--", *TRAIN, PATH=str(stubs.folder))
    assert done.returncode == 2
    assert "nvidia-smi finds no driver" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_extras_for_gpus_are_those_of_the_package(stubs, script):
    extras = [x for x in PROJECT["project"]["optional-dependencies"] if "cuda" in x]
    assert len(extras) == 2
    for extra in extras:
        _, install = stubs.dry_run(script("gpu.sh"), f"--extra={extra}")
        assert install[-1].endswith(f"[{extra},data,gcs]")


def test_a_step_that_fails_is_the_last(launch, stubs):
    stubs.add("python3", ("venv", 3))
    done, calls = launch("580.95.05", "--", *TRAIN)
    assert done.returncode == 3
    assert [call[0] for call in calls] == ["python3"]

"""SkyPilot's file: what it asks for, and what its machines run."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TASK = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
COMMAND = """kdjax distill --config='my configs/a.py:x' --config.mesh="[4, -1]" """
WORDS = ["kdjax", "distill", "--config=my configs/a.py:x", "--config.mesh=[4, -1]"]


def test_spot_machines_that_come_back():
    assert TASK["resources"]["use_spot"] is True
    assert TASK["resources"]["job_recovery"] == {"recover_on_exit_codes": [143]}
    assert TASK["envs"] == {"COMMAND": None}


@pytest.mark.parametrize("phase", ["setup", "run"])
def test_its_shell_is_sound(phase):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    words = [shellcheck, "--shell=bash", "-"]
    done = subprocess.run(words, input=TASK[phase], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize(("nodes", "ips"), [("1", "10.0.0.1"), ("2", "10.0.0.1\n::2")])
def test_each_machine_runs_the_command_as_it_was_typed(stubs, nodes, ips):
    stubs.add("kdjax", ("distill", 143))
    variables = {
        "COMMAND": COMMAND, "SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": ips,
    }  # fmt: skip
    # A checkout may have a kdjax of its own.
    text = f"cd {stubs.folder}\n{TASK['run']}"
    done = stubs.run("bash", "-c", text, **variables)
    assert (done.returncode, done.stderr) == (143, "")
    several = ["--coordinator_address=10.0.0.1:8476", "--num_processes=2"]
    several.append("--process_id=1")
    assert stubs.calls() == [[*WORDS, *(several if nodes == "2" else [])]]


@pytest.mark.parametrize("command", ["kdjax 'unclosed", "kdjax distill; true", " "])
def test_a_command_that_cannot_be_read_is_refused(stubs, command):
    variables = {"COMMAND": command, "SKYPILOT_NUM_NODES": "1"}
    done = stubs.run("bash", "-c", TASK["run"], **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be read as the words of a command" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_set_up_ends_where_a_step_fails(stubs):
    stubs.add("python3", ("pip", 1))
    done = stubs.run("bash", "-c", TASK["setup"])
    assert done.returncode == 1
    assert stubs.calls() == [["python3", "-m", "pip", "install", "--quiet", "uv"]]

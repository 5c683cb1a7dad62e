"""How processes find each other, and how one ends whose fellow has died."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from objectives.on_devices import free_port

from kdjax import hosts
from kdjax.errors import UserError

TOGETHER = "give all of them, or none"
# One task; `SLURM_STEP_NODELIST` is there for what `srun` has started.
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_processes": 2}, TOGETHER),
        ({"process_id": 0}, TOGETHER),
        ({"coordinator_address": "host:1"}, TOGETHER),
        ({"coordinator_address": "host:1", "process_id": 1}, TOGETHER),
        ({"num_processes": 2, "process_id": 1}, TOGETHER),
        (
            {"coordinator_address": "host", "num_processes": 2, "process_id": 1},
            "coordinator_address is 'host'; give HOST:PORT",
        ),
        (
            {"coordinator_address": "host:1", "num_processes": 2, "process_id": 2},
            "process_id is 2 and num_processes 2; count processes from 0",
        ),
        (
            {"coordinator_address": "host:1", "num_processes": 0, "process_id": 0},
            "process_id is 0 and num_processes 0",
        ),
        (
            {"coordinator_address": "h:99999", "num_processes": 2, "process_id": 0},
            "coordinator_address is 'h:99999'; give HOST:PORT",
        ),
        ({"heartbeat_timeout_seconds": 0}, "heartbeat_timeout_seconds is 0"),
    ],
)
def test_what_is_said_in_part_or_cannot_be_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        hosts.start(**given)
    assert not hosts.met()


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_a_port_that_another_has_is_refused(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}, .*: give one that is free"):
            hosts.start(f"127.0.0.1:{port}", 2, 0)
    assert not hosts.met()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        SLURM,
        # A notebook's pod.
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        # A single TPU host.
        {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_one_process_just_runs(environment, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    hosts.start()
    assert not hosts.met()


def test_where_one_process_is_named_nobody_is_met():
    hosts.start("127.0.0.1:1", 1, 0)
    assert not hosts.met()


def test_alone_a_process_is_the_first_and_has_everything():
    tree = {"x": np.arange(3), "y": [1]}
    assert hosts.is_first()
    assert not hosts.several()
    assert hosts.whole(tree)["x"] is tree["x"]
    hosts.wait("nobody")
    assert hosts.leave(2) == 2


@pytest.mark.parametrize(
    ("kind", "said", "lost"),
    [
        (ValueError, "UNKNOWN: Gloo all-reduce failed: Conn\nclosed by peer", True),
        (JaxRuntimeError, "INTERNAL: NCCL operation failed: process exited", True),
        (
            JaxRuntimeError,
            "INTERNAL: NCCL operation failed: unhandled cuda error",
            True,
        ),
        (JaxRuntimeError, "UNAVAILABLE: failed to connect", True),
        (JaxRuntimeError, "RESOURCE_EXHAUSTED: Out of memory", False),
        (ValueError, "UNAVAILABLE: Error reading gs://bucket/x", False),
        (ValueError, "no NCCL here", False),
        (KeyError, "UNKNOWN: Gloo", False),
    ],
)
def test_what_breaks_between_hosts_is_told_from_other_errors_in_one_line(
    kind, said, lost
):
    line = hosts.gone(kind(said))
    assert bool(line) == lost
    assert line.count("\n") == lost
    words = f"gone or cannot be reached, or this one broke ({' '.join(said.split())})"
    assert not lost or words in line


# A signal comes to one task before anything was asked, and JAX passes it on meanwhile.
PROGRAM = """
import signal, time
import jax
from kdjax import hosts
hosts.start(heartbeat_timeout_seconds=3)
print(jax.process_index(), jax.process_count(), flush=True)
if not hosts.is_first():
    signal.raise_signal(signal.SIGTERM)
time.sleep(2)
while not hosts.told_to_stop():
    time.sleep(0.1)
print("told to stop", hosts.told_to_stop(), flush=True)
time.sleep(120)
"""


def test_tasks_of_slurm_meet_and_one_that_waits_learns_that_the_other_is_dead():
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={
                **os.environ,
                **SLURM,
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": str(place),
                "SLURM_LOCALID": str(place),
                "JAX_COORDINATOR_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for port in [free_port()]
        for place in range(2)
    ]
    try:
        for place, task in enumerate(tasks):
            assert any(line == f"{place} 2\n" for line in task.stdout)
            assert task.stdout.readline() == "told to stop False\n"
        tasks[1].kill()
        _, said = tasks[0].communicate(timeout=60)
    finally:
        for task in tasks:
            task.kill()
            task.communicate()
    assert tasks[0].returncode == 1
    assert said.splitlines()[-1] == (
        "kdjax: another host is gone or cannot be reached, or this one broke (what is "
        "above says which); the same command on all hosts goes on from the last "
        "checkpoint"
    )

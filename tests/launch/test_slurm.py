"""A submission is one sbatch; its job runs a line on all tasks, and requeues itself."""

import json
import os
import shlex
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = [
    "kdjax", "distill", "--config=my configs/a.py:x", "--config.mesh=[4, -1, 1]",
    "--config.note=it's $HOME; \"so\"", "--workdir=runs/a",
]  # fmt: skip
COMMANDS = f"""\
# two seeds and what comes after

kdjax distill --config=a.py --config.seed=0 --workdir=runs/0
  # the second
{shlex.join(TRAIN)}
kdjax vqa --config='b c.py' --workdir="runs/2"  # not the last (yet
env SEED=3 kdjax vqa --config=b.py --workdir=runs/3#a
"""
LINES = [
    shlex.split(line.split("  #")[0])
    for line in COMMANDS.splitlines()
    if "kdjax" in line
]


@pytest.fixture
def job(stubs, script):
    """Run the job on its first node; return its exit status and what it called."""

    def run(*lines, srun=0, **variables):
        stubs.add("srun", (TRAIN[0], srun))
        stubs.add("scontrol")
        done = stubs.run(script("slurm_job.sh"), *lines, SLURM_JOB_ID="70", **variables)
        return done.returncode, stubs.calls()

    return run


def submitted(call):
    """Return the options of an sbatch, and the lines that its job gets."""
    name = next(i for i, word in enumerate(call) if word.endswith("/slurm_job.sh"))
    assert call[0] == "sbatch"
    return call[1:name], call[name + 1 :]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["--nodes=1", "--ntasks-per-node=1"]),
        (["--nodes=2", "--gpus-per-node=8"],
         ["--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8"]),
        (["--gpus-per-node=8", "--task=node", "--time=1:00", "--exclusive"],
         ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=1:00",
          "--exclusive"]),
    ],
)  # fmt: skip
def test_a_dry_run_prints_what_a_run_does(stubs, script, options, expected):
    stubs.add("sbatch")
    words = [script("slurm.sh"), *options, "--", *TRAIN]
    assert stubs.run(*words).returncode == 0
    calls = stubs.calls()
    assert stubs.dry_run(*words) == calls
    given, lines = submitted(*calls)
    assert given == expected
    assert [shlex.split(line) for line in lines] == [TRAIN]


def test_a_failure_of_sbatch_is_ours(stubs, script):
    stubs.add("sbatch", ("--nodes=3", 7))
    assert stubs.run(script("slurm.sh"), "--nodes=3", "--", *TRAIN).returncode == 7


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_array_has_a_job_for_each_command(stubs, script, job, tmp_path, end):
    file = tmp_path / "commands.txt"
    file.write_bytes(COMMANDS.removesuffix("\n").replace("\n", end).encode())
    options = [f"--commands={file}", "--array=0-3%1", "--gpus-per-node=1"]
    (call,) = stubs.dry_run(script("slurm.sh"), *options)
    given, lines = submitted(call)
    assert given[-2:] == ["--array=0-3", "--array=0-3%1"]  # sbatch takes the last
    assert len(lines) == len(LINES)
    for index, words in enumerate(LINES):
        variables = {"SLURM_ARRAY_JOB_ID": "69", "SLURM_ARRAY_TASK_ID": str(index)}
        status, calls = job(*lines, **variables)
        assert (status, calls) == (0, [["srun", "--kill-on-bad-exit=0", *words]])
        status, calls = job(*lines, srun=143, **variables)
        assert status == 143
        assert calls[1:] == [["scontrol", "requeue", "incomplete", f"69_{index}"]]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("kdjax distill 'unclosed", "cannot be read as the words of a command"),
        ("kdjax distill >log.txt", "cannot be read"),
        ("kdjax distill && kdjax vqa", "cannot be read"),
        ("kdjax distill \\", "cannot be read"),
        ("  X=1 kdjax distill", "begins with X=, which is no program: put env before"),
    ],
)
def test_a_line_that_is_no_command_is_refused(stubs, script, tmp_path, line, complaint):
    stubs.add("sbatch")
    file = tmp_path / "commands.txt"
    file.write_text(f"# one\n\nkdjax info\n{line}\nkdjax info\n")
    done = stubs.run(script("slurm.sh"), f"--commands={file}")
    assert (done.returncode, done.stdout, stubs.calls()) == (2, "", [])
    assert f"line 4 of {file} {complaint}" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("lines", "index"), [([], "0"), (["kdjax info"], "1")])
def test_a_job_without_a_command_says_so(stubs, script, lines, index):
    stubs.add("srun")
    words = [script("slurm_job.sh"), *lines]
    done = stubs.run(*words, SLURM_JOB_ID="70", SLURM_ARRAY_TASK_ID=index)
    assert (done.returncode, stubs.calls()) == (2, [])
    assert done.stderr == (
        f"slurm_job.sh: there is no command of index {index}: counted from 0, "
        f"{len(lines)} are given\n"
    )


@pytest.mark.parametrize("status", [0, 1, 2, 137, 143])
def test_a_job_requeues_itself_when_it_was_stopped_and_only_then(job, status):
    done, calls = job(shlex.join(TRAIN), srun=status)
    assert done == status
    requeue = [["scontrol", "requeue", "incomplete", "70"]] * (status == 143)
    assert calls == [["srun", "--kill-on-bad-exit=0", *TRAIN], *requeue]


def test_the_batch_shell_outlives_a_sigterm(stubs, script):
    """The tasks are still saving then."""
    stubs.add("srun")
    stubs.add("scontrol")
    task = "sh -c 'kill -TERM $PPID; sleep 0.1; exit 143'"
    (stubs.folder / "srun").write_text('#!/bin/sh\nshift; exec "$@"\n')
    done = stubs.run(script("slurm_job.sh"), task, SLURM_JOB_ID="70")
    assert done.returncode == 143
    assert stubs.calls() == [["scontrol", "requeue", "incomplete", "70"]]


@pytest.mark.parametrize(
    ("tasks", "gpus", "devices"),
    [("1", "4", "0,1,2,3"), ("1", "h100:2", "0,1"), ("4", "4", ""), ("1", "1", "")],
)
def test_a_task_a_node_has_all_gpus_of_it(stubs, script, tasks, gpus, devices):
    """JAX would take one GPU a task of Slurm."""
    stubs.add("srun")
    (stubs.folder / "srun").write_text('#!/bin/sh\nshift; exec "$@"\n')
    line = "sh -c 'echo $JAX_LOCAL_DEVICE_IDS'"
    variables = {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_GPUS_PER_NODE": gpus}
    done = stubs.run(script("slurm_job.sh"), line, **variables)
    assert (done.returncode, done.stdout) == (0, f"{devices}\n")


def test_the_tasks_have_the_cpus_of_the_job(job):
    """A newer srun does not take them over by itself."""
    _, calls = job(shlex.join(TRAIN), SLURM_CPUS_PER_TASK="12")
    assert calls == [["srun", "--kill-on-bad-exit=0", "--cpus-per-task=12", *TRAIN]]


SRUN = """\
#!/usr/bin/env bash
# Two tasks here, with the variables of a step, which are told to stop once they train.
shift
tasks=() status=0
export SLURM_NTASKS=2 SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_NUM_NODES=1
for id in 0 1; do
  SLURM_PROCID=$id SLURM_LOCALID=$id "$@" &
  tasks+=($!)
done
until [[ -s $METRICS ]] || ! kill -0 "${tasks[@]}"; do sleep 0.1; done
kill -TERM "${tasks[@]}"
for task in "${tasks[@]}"; do
  wait "$task" || { status=$? && echo "task: $status"; }
done
exit "$status"
"""


def job_number():
    """Return the number of a job whose port of JAX is free."""
    for number in range(70, 4000):
        with socket.socket() as port:
            if port.connect_ex(("127.0.0.1", 65536 - 4096 + number)):
                return str(number)
    raise AssertionError("no free port")


def test_two_tasks_meet_and_stop_together(stubs, script, tmp_path):
    """The job, with all that Slurm sets, and two processes of kdjax."""
    stubs.add("scontrol")
    stubs.add("srun")
    (stubs.folder / "srun").write_text(SRUN)
    run = tmp_path / "my run"
    line = shlex.join([
        sys.executable, "-m", "kdjax", "pretrain",
        f"--config={ROOT}/configs/pretrain/easy_vqa.py", f"--workdir={run}",
        "--config.steps=100000", "--config.batch_size=8", "--config.log_every=1",
        "--config.checkpoint.every_steps=100000", "--config.model=nano-16",
    ])  # fmt: skip
    number = job_number()
    variables = {
        **{k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_"))},
        "PYTHONPATH": str(ROOT), "METRICS": f"{run}/metrics.jsonl",
        "SLURM_JOB_ID": number, "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip
    done = stubs.run(script("slurm_job.sh"), line, **variables)
    assert done.returncode == 143, done.stderr
    assert done.stdout.splitlines().count("task: 143") == 2
    assert stubs.calls() == [["scontrol", "requeue", "incomplete", number]]
    rows = (run / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(row)["step"] for row in rows]
    assert steps == list(range(1, steps[-1] + 1))  # written by one of them
    assert [path.name for path in (run / "checkpoints").iterdir()] == [str(steps[-1])]

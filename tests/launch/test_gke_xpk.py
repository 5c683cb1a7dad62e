"""A workload of xpk is one command, whose container runs ours."""

TRAIN = [
    "kdjax", "distill", "--config=my configs/a.py:x", "--config.mesh=[4, -1, 1]",
    "--config.note=it's $HOME; \"so\"", "--workdir", "gs://bucket/run",
]  # fmt: skip
OPTIONS = ["--name=clip", "--cluster=c", "--type=v5litepod-256", "--image=i/kdjax:tpu"]
# What of xpk 1.16 is around the command in a container.
CONTAINER = """\
_sigterm() (kill -SIGTERM $! 2>/dev/null;);
trap _sigterm SIGTERM;
({command}) & PID=$!;
while kill -0 $PID 2>/dev/null; do sleep 0.05; done;
wait $PID;
exit $?
"""


def test_a_dry_run_prints_what_a_run_does(stubs, script):
    stubs.add("xpk")
    words = [*OPTIONS, "--slices=2", "--project=p", "--", *TRAIN]
    done = stubs.run(script("gke_xpk.sh"), *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (call,) = stubs.calls()
    assert stubs.dry_run(script("gke_xpk.sh"), *words) == [call]
    assert call[:3] == ["xpk", "workload", "create"]
    assert set(call[3:-1]) == {
        "--workload=clip", "--cluster=c", "--tpu-type=v5litepod-256", "--num-slices=2",
        "--docker-image=i/kdjax:tpu", "--max-restarts=20", "--project=p",
        "--termination-grace-period-seconds=120", "--restart-on-exit-codes=1",
    }  # fmt: skip


def test_a_failure_of_xpk_is_ours(stubs, script):
    stubs.add("xpk", ("create", 7))
    assert stubs.run(script("gke_xpk.sh"), *OPTIONS, "--", *TRAIN).returncode == 7


def test_the_container_runs_the_command_as_it_was_typed(stubs, script):
    (call,) = stubs.dry_run(script("gke_xpk.sh"), *OPTIONS, "--", *TRAIN)
    command = call[-1].removeprefix("--command=")
    stubs.add("kdjax", ("distill", 143))
    done = stubs.run("bash", "-c", CONTAINER.format(command=command))
    assert (done.returncode, done.stderr) == (143, "")
    assert stubs.calls() == [TRAIN]


def test_sigterm_reaches_the_command_in_its_container(stubs, script):
    """The shell's own process is told; the command must be what it started."""
    program = "trap 'echo saved; exit 143' TERM; kill -TERM $PPID; sleep 1; sleep 1"
    words = [*OPTIONS, "--", "sh", "-c", program, "--workdir=gs://bucket/run"]
    (call,) = stubs.dry_run(script("gke_xpk.sh"), *words)
    command = call[-1].removeprefix("--command=")
    done = stubs.run("bash", "-c", CONTAINER.format(command=command))
    assert (done.returncode, done.stdout) == (143, "saved\n")

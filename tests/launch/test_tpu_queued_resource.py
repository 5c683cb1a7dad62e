"""A slice is got, prepared and used; a preempted one is replaced."""

import pytest

TRAIN = [
    "kdjax", "distill", "--config=my configs/a.py:x", "--config.mesh=[4, -1, 1]",
    "--config.note=it's $HOME; \"so\"", "--workdir=gs://bucket/run",
]  # fmt: skip
OPTIONS = ["--name=clip", "--zone=z", "--type=v5litepod-64", "--poll=0"]
ABSENT, ACTIVE = ("list", 0), ("list", 0, "ACTIVE")


@pytest.fixture
def launch(stubs, script):
    """Run the script with the answers that gcloud gives."""
    for name in ("git", "mkdir"):
        stubs.add(name)

    def run(*options, gcloud):
        stubs.add("gcloud", *gcloud)
        path = script("tpu_queued_resource.sh")
        done = stubs.run(path, *OPTIONS, *options, "--", *TRAIN)
        return done, stubs.calls()

    return run


def verbs(calls):
    """Return what was asked of the cloud."""
    return [call[4] for call in calls if call[0] == "gcloud"]


def test_a_dry_run_prints_what_a_run_does(launch, stubs, script):
    options = ["--spot", "--delete", "--project=p", "--labels=team=a b"]
    done, calls = launch(*options, gcloud=[ABSENT, ACTIVE])
    assert done.returncode == 0
    path = script("tpu_queued_resource.sh")
    assert stubs.dry_run(path, *OPTIONS, *options, "--", *TRAIN) == calls
    assert stubs.calls() == []
    assert verbs(calls) == ["list", "create", "list", "scp", "ssh", "ssh", "delete"]
    create = calls[1]
    assert create[1:6] == ["compute", "tpus", "queued-resources", "create", "clip"]
    assert set(create[6:]) == {
        "--node-id=clip", "--accelerator-type=v5litepod-64", "--spot", "--zone=z",
        "--runtime-version=v2-alpha-tpuv5-lite", "--project=p", "--labels=team=a b",
    }  # fmt: skip
    for call in calls[-4:-1]:
        assert {"--worker=all", "--zone=z", "--project=p"} <= set(call)


def test_the_hosts_get_the_command_as_it_was_typed(launch, stubs):
    _, calls = launch(gcloud=[ACTIVE])
    command = calls[-1][-1].removeprefix("--command=")
    (stubs.folder / "mkdir").unlink()
    stubs.add("kdjax-venv/bin/kdjax")
    for name, missing in (("pkill", 1), ("pgrep", 1)):
        stubs.add(name, ("-x", missing))
    done = stubs.run("bash", "-c", f"cd && {command}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [call[0] for call in stubs.calls()] == ["pkill", "pgrep"]
    assert stubs.calls("kdjax-venv/bin") == [TRAIN]
    assert (stubs.folder / "kdjax").is_dir()


def test_a_slice_that_is_there_is_used(launch):
    done, calls = launch(gcloud=[("list", 0, "PROVISIONING"), ACTIVE])
    assert done.returncode == 0
    assert verbs(calls) == ["list", "list", "scp", "ssh", "ssh"]


def test_a_requirement_replaces_the_checkout(launch):
    _, calls = launch("--install=kdjax[tpu]==1.0", gcloud=[ACTIVE])
    assert verbs(calls) == ["list", "ssh", "ssh"]
    assert [call[0] for call in calls] == ["gcloud"] * 3
    assert calls[1][-1].endswith(" 'kdjax[tpu]==1.0'")


def test_a_preempted_slice_is_replaced(launch):
    """The connection breaks, the slice goes, and the next attempt asks for another."""
    answers = [
        ACTIVE, ("ssh", 0), ("ssh", 255),
        ("list", 0, "SUSPENDING"), ("list", 0, "SUSPENDED"), ABSENT, ACTIVE,
    ]  # fmt: skip
    done, calls = launch("--restarts=1", gcloud=answers)
    assert done.returncode == 0
    first, second = ["list", "scp", "ssh", "ssh"], ["scp", "ssh", "ssh"]
    again = ["list", "list", "delete", "list", "create", "list"]
    assert verbs(calls) == [*first, *again, *second]
    assert "exit status 255; starting again, 1 times at most" in done.stderr
    assert calls[-1] == calls[len(first) + 1]  # the same command (git and mkdir count)


@pytest.mark.parametrize(
    ("status", "options", "runs"),
    [(0, ["--restarts=5"], 1), (2, ["--restarts=5"], 1), (143, [], 1),
     (143, ["--restarts=2"], 3), (1, ["--restarts=1"], 2)],
)  # fmt: skip
def test_restarts_are_for_failures_that_may_pass(launch, status, options, runs):
    answers = [ACTIVE, ("ssh", 0), ("ssh", status)] * runs
    done, calls = launch(*options, gcloud=answers)
    assert done.returncode == status
    assert verbs(calls).count("ssh") == 2 * runs


def test_an_installation_that_fails_is_no_wrong_input(launch):
    answers = [ACTIVE, ("ssh", 2), ACTIVE, ("ssh", 0), ("ssh", 0)]
    done, calls = launch("--restarts=5", gcloud=answers)
    assert (done.returncode, verbs(calls).count("ssh")) == (0, 3)


@pytest.mark.parametrize(
    ("answers", "asked", "status"),
    [
        ([ABSENT, ("create", 3)], ["list", "create"], 3),
        ([ABSENT, ("list", 0, "FAILED")], ["list", "create", "list"], 1),
        ([ACTIVE, ("scp", 4)], ["list", "scp"], 4),
        ([ACTIVE, ("ssh", 5)], ["list", "scp", "ssh"], 5),
    ],
)
def test_a_step_that_fails_is_the_last_but_for_the_deletion(
    launch, answers, asked, status
):
    done, calls = launch("--delete", gcloud=answers)
    assert done.returncode == status
    assert verbs(calls) == [*asked, "delete"]


def test_what_is_not_known_to_be_there_is_not_deleted(launch):
    done, calls = launch("--delete", gcloud=[("list", 1)])
    assert (done.returncode, verbs(calls)) == (1, ["list"])

"""One run on two hosts, each a process with two devices, and on one."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from flax import nnx
from objectives.on_devices import free_port, with_devices
from safetensors.numpy import load_file

import kdjax
from kdjax.data.registry import build_source
from kdjax.data.tokenizer import train_tokenizer
from kdjax.models import CLIP, architecture
from kdjax.models.zoo import with_vocabulary

CONFIG = "configs/distill/scenes.py"
DATA = {"seed": 0, "size": 64, "eval_size": 24, "image_size": 32}
STEPS, HALF = 50, 25
# All parameters and moments are spread over all devices, however many there are.
SETTINGS = {
    **{f"data.{key}": value for key, value in DATA.items()},
    "student": "nano-16",
    "inherit": "index",
    "batch_size": 8,
    "teacher_entropy": 1.5,
    "optimizer.learning_rate": 1e-3,
    "log_every": 1,
    "eval.every_steps": HALF,
    "checkpoint.every_steps": HALF,
    "checkpoint.best": "validation/zero_shot_accuracy",
    "mesh.data": 1,
    "mesh.fsdp": -1,
}
LIMIT = 300.0


def overrides(teacher, settings):
    settings = {"steps": STEPS, **SETTINGS, "teacher": teacher, **settings}
    return [f"--config.{key}={value}" for key, value in settings.items()]


def on_one_host(workdir, teacher, **settings):
    given = overrides(teacher, settings)
    return kdjax.run("distill", CONFIG, str(workdir), given, quiet=True)


class TwoHosts:
    """Two processes of one run."""

    def __init__(self, workdir, teacher, *options, **settings):
        self.said = [workdir.with_name(f"{workdir.name}.{i}.txt") for i in range(2)]
        address = f"127.0.0.1:{free_port()}"
        command = [
            *(sys.executable, "-m", "kdjax", "distill", f"--config={CONFIG}"),
            f"--workdir={workdir}",
            *overrides(teacher, settings),
            *(f"--coordinator_address={address}", "--num_processes=2", *options),
        ]
        self.processes = []
        for place, file in enumerate(self.said):
            with file.open("w") as said:
                self.processes.append(
                    subprocess.Popen(
                        [*command, f"--process_id={place}"],
                        env=with_devices(2),
                        stdout=said,
                        stderr=said,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def wait_for(self, workdir, steps):
        """Wait until so many steps are logged."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and not self.ended():
            if len(rows_of(workdir)) >= steps:
                return
            time.sleep(0.05)
        pytest.fail(self.words())

    def ended(self):
        return any(process.poll() is not None for process in self.processes)

    def end(self):
        return [process.wait(LIMIT) for process in self.processes]

    def words(self, *places):
        """Return what was said, but for the library that sums on CPUs."""
        files = [self.said[place] for place in places] or self.said
        lines = [x for file in files for x in file.read_text().splitlines()]
        return "\n".join(x for x in lines if x and not x.startswith("[Gloo]"))


def rows_of(workdir):
    file = workdir / "metrics.jsonl"
    return (
        [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []
    )


def steps_of(workdir):
    """Return the steps of which there are checkpoints, and nothing else there."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def losses(workdir):
    rows = rows_of(workdir)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def assert_same_curve(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def files(workdir):
    names = {str(path.relative_to(workdir)) for path in workdir.rglob("*")}
    return {x for x in names if not x.startswith(("checkpoints/", "tensorboard/"))}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = train_tokenizer(build_source("scenes", "train", **DATA).texts())
    size, end = tokenizer.vocab_size, tokenizer.eos_id
    config = with_vocabulary(architecture("tiny-16"), size, end)
    clip = nnx.jit(lambda: CLIP(config, rngs=nnx.Rngs(1)))()
    kdjax.save_clip(clip, folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def runs(teacher, tmp_path_factory):
    """A run on one device, and the same on two hosts at the same time."""
    one, two = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "two"))
    with TwoHosts(two, teacher) as hosts:
        results = on_one_host(one, teacher)
        assert hosts.end() == [0, 0], hosts.words()
    return one, results, two, hosts


@pytest.fixture(scope="module")
def alone(runs):
    return runs[:2]


@pytest.fixture(scope="module")
def together(runs):
    return runs[2:]


def test_two_hosts_have_the_losses_of_one_device(alone, together):
    expected, found = losses(alone[0]), losses(together[0])
    assert len(expected) == STEPS
    assert_same_curve(found, expected)


def test_two_hosts_leave_what_one_leaves_after_the_same_best_step(alone, together):
    workdir, hosts = together
    assert files(workdir) == files(alone[0])
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    results = json.loads((workdir / "results.json").read_text())
    for same in ("zero_shot_accuracy", "best", "last"):
        assert results[same] == alone[1][same]
    assert results["best"]["step"] == HALF
    assert steps_of(workdir) == [HALF, STEPS]
    assert results["calibrated_scale"] == pytest.approx(
        alone[1]["calibrated_scale"], rel=1e-5
    )
    models = [load_file(x / "model/model.safetensors") for x in (workdir, alone[0])]
    for name, expected in models[1].items():
        # Attention does not see a key's bias: Adam makes steps of mere rounding of it.
        if not name.endswith("k_proj.bias"):
            np.testing.assert_allclose(models[0][name], expected, atol=1e-4)
    assert f"{STEPS} steps in" in hosts.words(0)
    assert hosts.words(1) == ""


def test_what_is_wrong_for_all_hosts_ends_all_as_wrong_input(together, teacher):
    with TwoHosts(together[0], teacher, seed=1) as hosts:
        assert hosts.end() == [2, 2], hosts.words()
    for place in range(2):
        assert "holds a run of another config (seed was 0" in hosts.words(place)


def test_all_stop_at_one_step_when_one_is_asked_and_one_host_goes_on(
    alone, teacher, tmp_path
):
    """By Ctrl-C; until then the clock of the first host says when to save."""
    workdir = tmp_path / "run"
    settings = {"checkpoint.every_steps": 1000, "mesh.data": -1, "mesh.fsdp": 1}
    minutes = {"checkpoint.every_minutes": 1e-9}
    with TwoHosts(workdir, teacher, **settings, **minutes) as hosts:
        hosts.wait_for(workdir, 3)
        hosts.processes[1].send_signal(signal.SIGINT)
        assert hosts.end() == [143, 130], hosts.words()
    assert hosts.words(0).endswith("stopped; the same command goes on from here")
    stopped = len(losses(workdir))
    assert 3 <= stopped < HALF
    assert steps_of(workdir) == [stopped - 1, stopped]
    on_one_host(workdir, teacher, **settings)
    assert_same_curve(losses(workdir), losses(alone[0]))


@pytest.fixture
def half_good(alone, tmp_path):
    """The run on one device with its last checkpoint damaged, and lines as before."""
    workdir = tmp_path / "run"
    shutil.copytree(alone[0], workdir)
    (workdir / "results.json").unlink()
    (workdir / f"checkpoints/{STEPS}/run/metadata").write_text("{")
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:HALF]))
    return workdir


def test_two_hosts_go_on_and_when_one_dies_the_other_says_so_and_stops(
    alone, half_good, teacher
):
    options = {"steps": 100 * STEPS}  # There is time to kill one.
    with TwoHosts(
        half_good, teacher, "--heartbeat_timeout_seconds=5", **options
    ) as two:
        two.wait_for(half_good, HALF + 3)
        two.processes[1].kill()
        assert two.processes[0].wait(LIMIT) == 1
    first, *_, last = two.words(0).splitlines()
    assert first.startswith(
        f"the checkpoint {half_good}/checkpoints/{STEPS} is damaged"
    )
    assert first.endswith(f"going on from {HALF}")
    assert (half_good / f"checkpoints/damaged-{STEPS}").is_dir()
    assert last.startswith("kdjax: another host is gone or cannot be reached")
    assert last.endswith(
        "the same command on all hosts goes on from the last checkpoint"
    )
    # From then on the learning rate is that of more steps.
    assert_same_curve(losses(half_good)[: HALF + 1], losses(alone[0])[: HALF + 1])

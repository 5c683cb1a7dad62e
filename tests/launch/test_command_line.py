"""What all scripts have in common: a manual, and one line for what is wrong."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INNER = ("common.sh", "slurm_job.sh")
SCRIPTS = sorted(p for p in ROOT.glob("launch/*.sh") if p.name not in INNER)
TPU = ["tpu_queued_resource.sh", "--zone=z", "--type=v5p-8"]
GKE = ["gke_xpk.sh", "--name=n", "--cluster=c", "--type=v5p-8"]
TRAIN = ["--", "kdjax", "distill", "--workdir=gs://bucket/run"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_option_is_in_the_manual(stubs, path):
    done = stubs.run(path, "--help")
    assert done.returncode == 0
    values, flags = path.read_text().split("\nparse '")[1].split("'")[:3:2]
    for option in ["dry-run", *values.split(), *flags.split()]:
        assert f"\n  --{option}" in done.stdout
    assert f"{path.relative_to(ROOT)} " in done.stdout
    assert "set -euo" not in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([*TPU, "--name=n"], "what to run is missing"),
        ([*TPU, *TRAIN], "--name=VALUE is missing"),
        ([*TPU, "--name", "n", *TRAIN], "--name needs a value: --name=VALUE"),
        ([*TPU, "--name=", *TRAIN], "--name needs a value"),
        ([*TPU, "--name=My TPU", *TRAIN], "small letters, digits and hyphens"),
        ([*TPU, "--name=n", "--spot=yes", *TRAIN], "--spot takes no value"),
        ([*TPU, "--name=n", "--restarts=many", *TRAIN], "not a whole number"),
        (
            [*TPU, "--name=n", "--delete", "--restarts=08", *TRAIN],
            "--restarts=08 is not a whole number from 0 to 999999999 without leading",
        ),
        ([*TPU, "--name=n", "--poll=9999999999", *TRAIN], "not a whole number"),
        ([*TPU, "--name=n", "kdjax"], "'kdjax' is no option, and the command comes"),
        ([*TPU, "--name=n", "--type=tpu7x-8", *TRAIN], "give --runtime-version"),
        (
            [*TPU, "--name=n", "--", "kdjax", "--workdir=runs/x"],
            "outlives the machines",
        ),
        (
            [*TPU, "--name=n", *TRAIN[:3], "--workdir=/a", "--x= --workdir=gs://b/x"],
            "outlives the machines",
        ),
        ([*TPU, "--name=n", *TRAIN, "--workdir", "runs/x"], "outlives the machines"),
        ([*GKE, *TRAIN], "--image=VALUE is missing"),
        ([*GKE, "--image=i", "--", "kdjax", "distill"], "outlives the machines"),
        (
            [*GKE, "--image=i", "--slices=2x", *TRAIN],
            "--slices=2x is not a whole number",
        ),
        ([*GKE, "--image=i", "--slices=0", *TRAIN], "not a whole number from 1"),
        ([*GKE, "--image=i", "--", "X=1", *TRAIN[1:]], "begins with X=, which is no"),
        (["slurm.sh", "--nodes=0", *TRAIN], "not a whole number from 1"),
        (["slurm.sh", "--gpus-per-node=08", *TRAIN], "--gpus-per-node=08 is not a"),
        (["slurm.sh"], "what to run is missing"),
        (["slurm.sh", "--task=core", *TRAIN], "neither gpu nor node"),
        (["slurm.sh", "--commands=none.txt"], "--commands=none.txt cannot be read"),
        (["slurm.sh", "--commands=/"], "--commands=/ cannot be read"),
        (["slurm.sh", "--commands=/dev/null"], "has no command"),
        (["slurm.sh", "--commands=/dev/null", *TRAIN], "not both"),
        (["gpu.sh", "--gpus=1", *TRAIN], "--gpus=1 is no option"),
        (["gpu.sh", "--extra=rocm", *TRAIN], "--extra=rocm is neither cuda13 nor"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(stubs, script, words, complaint):
    for name in ("gcloud", "xpk", "sbatch", "nvidia-smi", "python3"):
        stubs.add(name)
    done = stubs.run(script(words[0]), *words[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert done.stderr.startswith(f"{words[0]}: ") and done.stderr.count("\n") == 1
    assert stubs.calls() == []

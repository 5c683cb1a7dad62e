"""Plans: the real command line once, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdjax.commands.plan import Plan, plan
from kdjax.commands.plan_lines import as_json, lines
from kdjax.commands.planned import config_of
from kdjax.commands.reporter import Reporter
from kdjax.config import load_config
from kdjax.errors import UserError
from kdjax.models import architecture
from kdjax.parallel.chips import CHIPS
from kdjax.parallel.roofline import Roofline

SCENES, CLIP_KD = (
    "configs/distill/scenes.py",
    "configs/distill/clip_kd_vitl14_vitt16.py",
)
DEVICES, ROWS, WIDTH = 8, 4096, 64
QUIET = Reporter(quiet=True)
MODELS = ("--config.student=nano-16", "--config.teacher=nano-16")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Lines and numbers of a plan for GPUs, which CPU devices stand for."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    words = [
        "plan",
        f"--config={SCENES}",
        f"--topology=h100:{DEVICES}",
        f"--json={path}",
    ]
    words += [*MODELS, f"--config.batch_size={ROWS}", "--config.teacher_scale=own"]
    words += ["--config.objectives={'clip':{},'crd':{},'icl':{}}"]
    done = subprocess.run(
        [sys.executable, "-m", "kdjax", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"plan: compiling the step for h100:{DEVICES}\n"
    return done.stdout, json.loads(path.read_text())


@pytest.fixture
def planned_tpu():
    """A plan for a TPU, of stated numbers."""
    chip = CHIPS["v5e"]
    found = Roofline(chip, chip.peak, int(2 * chip.bandwidth), ())
    return Plan(
        topology="v5e:1x1",
        compiled_for_it=True,
        mesh={"data": 1, "fsdp": 1, "tensor": 1},
        config=one(),
        models={},
        model_flops=0,
        state=0,
        needed=1.0,
        limit=2.0,
        memory=None,
        roofline=found,
        seconds=0.0,
    )


def test_a_plan_says_memory_work_and_time(planned):
    told, numbers = planned
    for words in (
        "memory of a device, GiB",
        "a step takes at least that",
        "chip-hours",
        "in place of",
    ):
        assert words in told
    memory, run, seconds = (numbers[k] for k in ("memory", "run", "seconds"))
    parts = memory["arguments"] + memory["temporary"] + memory["outputs"]
    assert memory["needed"] == parts < memory["limit"] and numbers["fits"]
    assert run["hours"] == pytest.approx(run["steps"] * seconds["step"] / 3600)
    assert run["chip_hours"] == pytest.approx(DEVICES * run["hours"])
    assert run["epochs"] == run["steps"] * ROWS / 10_000


def test_of_a_program_of_another_machine_the_products_alone_take_time(planned):
    told, numbers = planned
    seconds = numbers["seconds"]
    assert seconds["step"] == seconds["compute"] == numbers["flops"] / 989e12
    assert seconds["memory"] is seconds["links"] is numbers["bottleneck"] is None
    assert "bottleneck" not in told and ": at least " in told


def test_a_step_of_the_machine_itself_takes_as_long_as_its_longest_part(planned_tpu):
    found = as_json(planned_tpu)
    seconds = found["seconds"]
    assert seconds["step"] == seconds[found["bottleneck"]] == seconds["memory"] == 2.0
    assert found["run"]["hours"] == found["run"]["steps"] * 2.0 / 3600
    assert "bottleneck: memory" in "\n".join(lines(planned_tpu))


def test_flops_are_those_of_a_hand_count(planned):
    """Of one layer 16 wide with 17 tokens, and one 32 wide with 40, three times."""
    _, numbers = planned

    def tower(width, tokens, read):
        block = 2 * tokens * (4 + 8) * width**2 + 4 * tokens**2 * width
        return block + read + 2 * width * WIDTH

    both = tower(16, 17, 2 * 16 * 3 * 16**2 * 16) + tower(32, 40, 0)
    assert numbers["model_flops"] == 4 * ROWS * both
    # Beside the models the products of all pairs, there and back.
    pairs = numbers["flops"] * DEVICES - numbers["model_flops"]
    product = 2 * ROWS**2 * WIDTH
    assert 4 * product < pairs < 40 * product


def test_a_student_says_its_gradient_and_one_gather_of_embeddings(planned):
    """As on TPUs in test_hlo.py; CPUs gather what they pool texts from as well."""
    _, numbers = planned
    found = {x["kind"]: x for x in numbers["collectives"] if x["whose"] == "student"}
    features, column = 4 * ROWS * WIDTH, 4 * ROWS
    heads = 2 * (WIDTH**2 + WIDTH)
    gradient = 4 * (numbers["models"]["nano-16"] + heads)
    least = {
        "all-gather": 3 * features + 4 * column,
        "reduce-scatter": features,
        "all-reduce": gradient + 2 * column,
    }
    pooled = {"all-gather": features, "all-reduce": features}
    for kind, size in least.items():
        most = 1.1 * (size + pooled.get(kind, 0))
        assert 0.9 * size < found[kind]["size"] < most, kind
    assert all(x["over"] == "data" and x["far"] == 0 for x in found.values())


def one(*overrides, config=SCENES):
    return load_config(config, [*MODELS, *overrides])


@pytest.mark.parametrize(
    ("config", "name", "said"),
    [
        (one(), "v7:2x2", "the topology is 'v7:2x2'; give a chip (v4, v5e, "),
        (one(), "v5e", "the topology is 'v5e'; give a chip"),
        (one(), "h100:0", "the topology is 'h100:0'; give a chip"),
        (one("--config.microbatch=5"), "h100:1", "microbatch 5 does not divide"),
        (one(), "h100:256", "needs 256 CPU devices in place of its GPUs"),
        (one("--config.teacher=nano-17"), "h100:1", "'nano-17' is no architecture"),
        (one("--config.remat.text=some"), "h100:1", "remat.text is 'some'; give none"),
        (one("--config.mesh.data=3"), "h100:1", "does not fit 1 devices"),
        (load_config("configs/chain/assistant.py"), "h100:1", "of none of pretrain"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_sentence(config, name, said):
    with pytest.raises(UserError) as told:
        plan(config, name, 1, QUIET)
    assert said in str(told.value)


def test_of_what_does_not_fit_nothing_is_made_up():
    """Of 2^24 pairs the images alone are 192 GiB, so nothing is compiled."""
    found = plan(one(f"--config.batch_size={2**24}"), "h100:1", 1, QUIET)
    assert not found.fits and found.needed > 2**24 * 64 * 64 * 3
    assert "it does not fit; kdjax plan --fit looks for what does" in lines(found)[-1]
    numbers = as_json(found)
    assert numbers["memory"]["needed"] == found.needed
    assert (
        numbers["memory"]["temporary"] is numbers["traffic"] is numbers["run"] is None
    )


def test_a_file_without_a_name_is_refused():
    words = ["plan", f"--config={SCENES}", "--topology=h100:1", "--json="]
    done = subprocess.run(
        [sys.executable, "-m", "kdjax", *words], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "kdjax: --json is empty; give the file to write\n"


def test_without_the_compiler_of_tpus_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'kdjax\[plan\]'"):
        plan(one(), "v5e:2x2", 1, QUIET)


def test_the_published_recipe_has_its_steps_and_cannot_be_run_yet(tmp_path):
    config = load_config(CLIP_KD)
    assert (config.steps, load_config(f"{CLIP_KD}:1024").steps) == (12_559, 401_875)
    assert round(config.optimizer.warmup * 401_875) == 10_000
    assert config_of(config.teacher) == architecture("vit-l-14")
    words = ["distill", f"--config={CLIP_KD}", f"--workdir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-m", "kdjax", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("kdjax: there is no data set 'cc3m_cc12m'")
    assert not Path(tmp_path, "run").exists()

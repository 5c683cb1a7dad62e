"""A run that was stopped and started again equals one that never stopped."""

import json
import os
import signal
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from kdjax.data.easy_vqa import EasyVQA
from kdjax.data.loader import contrastive_batches
from kdjax.data.tokenizer import train_tokenizer
from kdjax.models import CLIP, architecture
from kdjax.models.flops import caption_flops, image_flops
from kdjax.models.zoo import with_vocabulary
from kdjax.objectives import expand
from kdjax.parallel import make_mesh
from kdjax.training.interrupt import Interrupted
from kdjax.training.loop import LoopConfig, train
from kdjax.training.metrics import read_metrics
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.steps import build_program
from kdjax.training.tasks import ContrastiveTask

STEPS = 12
# Of a sample: three forward passes of tiny-16, with texts of 16 tokens.
FLOPS = 3 * (
    image_flops(architecture("tiny-16")) + caption_flops(architecture("tiny-16"), 16)
)
LOOP = LoopConfig(seed=3, steps=STEPS, log_every=2, checkpoint_every=4)
MESH = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3, weight_decay=0.1, warmup=0.1, b2=0.98, clip_norm=1.0
)


@pytest.fixture(scope="module")
def source():
    return EasyVQA("validation")


@pytest.fixture(scope="module")
def tokenizer(source):
    return train_tokenizer(source.texts())


@pytest.fixture(scope="module")
def program(tokenizer):
    config = with_vocabulary(
        architecture("tiny-16"), tokenizer.vocab_size, tokenizer.eos_id
    )
    task = ContrastiveTask(config, (), (("clip", (("weight", 1.0),)),))
    return build_program(task, OPTIMIZER, MESH)


@pytest.fixture
def fit(source, tokenizer, program):
    def run(workdir, loop=LOOP, *, compiled=None, watch=(), **given):
        tokenizers = {name: (tokenizer, 16) for name in ("student", "teacher_0")}
        batches = contrastive_batches(source, tokenizers, batch_size=8, seed=loop.seed)
        workdir = epath.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        done = train(
            compiled or program,
            loop,
            batches=iter(batches),
            workdir=workdir,
            watch=watch,
            **given,
        )
        return jax.device_get(done.state)

    return run


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_loss_falls_and_every_logged_step_has_one_line(fit, tmp_path):
    fit(tmp_path)
    rows = read_metrics(epath.Path(tmp_path))
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["clip"] == row["loss"] for row in rows)
    expected = {"clip", "loss", "learning_rate", "logit_scale", "skipped"}
    expected |= {f"time/{x}" for x in ("data", "step", "checkpoint", "evaluation")}
    expected |= {"speed/samples_per_second", "speed/flops_per_second"}
    for norm in ("grad_norm", "param_norm"):
        expected |= {norm, *(f"{norm}/{x}" for x in ("vision", "text", "logits"))}
    for row in rows:
        assert expected <= row.keys()
        # A CPU has no peak, and does not tell its memory.
        assert not {"speed/utilisation", "memory/peak_gib"} & row.keys()
        # Eight images, and the model FLOPs of a step, in the same time.
        flops = row["speed/flops_per_second"] / row["speed/samples_per_second"]
        assert flops == pytest.approx(FLOPS, rel=1e-6)


def stop_at_six(step, numbers):
    if step == 6:
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_objectives_learn_mask_and_schedule_goes_on_too(
    fit, tokenizer, program, tmp_path
):
    """In the released code of CLIP-KD heads and scales are not saved.

    So do the average and Muon's and AdamW's moments, of which what is frozen has none.
    """
    student = with_vocabulary(
        architecture("nano-16"), tokenizer.vocab_size, tokenizer.eos_id
    )
    teacher = replace(student, embed_dim=2 * student.embed_dim)
    given = expand(
        {name: {} for name in ("fd", "mfd", "afd", "siglip")}
        | {"icl": {"weight": {"start": 1, "end": 0, "until": 0.75}}}
    )
    objectives = tuple((k, tuple(sorted(v.items()))) for k, v in given.items())
    task = ContrastiveTask(student, (teacher,), objectives)
    optimizer = replace(
        OPTIMIZER,
        name="muon",
        rates=(("text/token_embedding", 0.0),),
        layer_decay=0.9,
        ema=0.9,
    )
    arguments = {
        "compiled": build_program(task, optimizer, MESH),
        "frozen": (nnx.to_pure_dict(nnx.state(CLIP(teacher, rngs=nnx.Rngs(1)))),),
    }
    whole = fit(tmp_path / "whole", **arguments)
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", watch=[stop_at_six], **arguments)
    assert_equal(whole, fit(tmp_path / "stopped", **arguments))
    frozen = whole.params["model"]["text"]["token_embedding"]
    assert_equal(frozen, whole.ema["model"]["text"]["token_embedding"])
    assert frozen["embedding"].shape not in {
        x.shape for x in jax.tree.leaves(whole.opt_state)
    }
    learnt = whole.params["objective"]
    parts = learnt["parts"][0]
    assert set(learnt) == {"parts", "bias"}
    assert set(parts) == {"projection", "scale", "fusion"}
    assert float(learnt["bias"]) != -10
    for row in read_metrics(epath.Path(tmp_path / "stopped")):
        expected = max(0, 1 - (row["step"] - 1) / LOOP.steps / 0.75)
        assert row["icl_weight"] == pytest.approx(expected, abs=1e-6)
    assert float(parts["scale"]) != float(parts["fusion"]["scale"])


def test_no_steps_leave_the_average_where_the_run_starts(program, tmp_path):
    state = program.init(3, 0)
    averaging = replace(
        program,
        init=lambda seed, steps: replace(state, ema=state.params),
        shapes=replace(program.shapes, ema=program.shapes.params),
        shardings=replace(program.shardings, ema=program.shardings.params),
    )
    ended, *_ = train(
        averaging,
        replace(LOOP, steps=0),
        batches=iter(()),
        workdir=epath.Path(tmp_path),
        warm_start=lambda params: jax.tree.map(jax.numpy.ones_like, params),
    )
    assert all((x == 1).all() for x in jax.tree.leaves(ended.evaluated))


def timeless(row):
    """A line without what depends on how fast it went."""
    kept = {k: x for k, x in row.items() if k.split("/")[0] not in ("time", "speed")}
    del kept["seconds"]
    return kept


def test_a_stopped_run_goes_on_bit_for_bit(fit, tmp_path):
    whole = fit(tmp_path / "whole")
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path / "stopped", watch=[stop_at_six])
    assert stopped.value.signum == signal.SIGTERM
    resumed = fit(tmp_path / "stopped")
    assert_equal(whole, resumed)
    texts = [(tmp_path / d / "metrics.jsonl").read_text() for d in ("whole", "stopped")]
    rows = [[timeless(json.loads(x)) for x in text.splitlines()] for text in texts]
    assert rows[0] == rows[1]


def test_torn_and_later_lines_are_dropped_on_resume(fit, tmp_path):
    fit(tmp_path, replace(LOOP, steps=8))
    file = tmp_path / "metrics.jsonl"
    rows = file.read_text()
    file.write_text(rows + '{"step": 10, "loss": 1.0}\n{"step": 12, "lo')
    fit(tmp_path)
    steps = [row["step"] for row in read_metrics(epath.Path(tmp_path))]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_logged_line_waits_for_no_checkpoint(fit, tmp_path):
    seen = []

    def look(step, numbers):
        """A thread writes, so the line may come a little later."""
        deadline = time.monotonic() + 60
        while numbers and time.monotonic() < deadline:
            steps = [row["step"] for row in read_metrics(epath.Path(tmp_path))]
            if steps[-1:] == [step]:
                seen.append(steps)
                return
            time.sleep(0.01)

    fit(tmp_path, replace(LOOP, steps=6, checkpoint_every=100), watch=[look])
    assert seen == [[2], [2, 4], [2, 4, 6]]


def test_evaluation_changes_nothing_and_is_at_the_same_steps_after_a_fault(
    fit, tmp_path
):
    """Scores stand in the line of their step, and the last step has some too."""
    loop, seen = replace(LOOP, evaluate_every=5), []

    def evaluate(state):
        seen.append(int(state.step))
        # What an evaluator does: a program of its own on the live parameters.
        norm = jax.jit(lambda x: jnp.linalg.norm(x))(
            state.params["model"]["text_projection"]["kernel"]
        )
        return {"validation/norm": float(norm)}

    whole = fit(tmp_path / "whole")
    assert_equal(whole, fit(tmp_path / "scored", loop, evaluate=evaluate))
    assert seen == [5, 10, 12]
    with pytest.raises(Interrupted):
        fit(tmp_path / "stopped", loop, evaluate=evaluate, watch=[stop_at_six])
    assert_equal(whole, fit(tmp_path / "stopped", loop, evaluate=evaluate))
    assert seen[3:] == [5, 10, 12]
    for folder in ("scored", "stopped"):
        rows = read_metrics(epath.Path(tmp_path / folder))
        scores = {
            x["step"]: x["validation/norm"] for x in rows if "validation/norm" in x
        }
        assert list(scores) == [5, 10, 12]
        kernel = whole.params["model"]["text_projection"]["kernel"]
        assert scores[12] == pytest.approx(np.linalg.norm(kernel), rel=1e-5)


def test_another_seed_is_another_run(fit, tmp_path):
    first = fit(tmp_path / "a", replace(LOOP, steps=1))
    second = fit(tmp_path / "b", replace(LOOP, steps=1, seed=4))
    leaves = zip(
        jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True
    )
    assert any(not np.array_equal(a, b) for a, b in leaves)

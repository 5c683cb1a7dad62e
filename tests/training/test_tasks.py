"""What a task loses, and what of it learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models import CLIP as CLIPModel
from kdjax.models import VQAConfig, VQAModel, architecture, graph_of
from kdjax.models.clip import preprocess
from kdjax.objectives import expand
from kdjax.parallel import make_mesh
from kdjax.training.optimizer import OptimizerConfig, stop_frozen
from kdjax.training.steps import build_program
from kdjax.training.tasks import ContrastiveTask, VQATask, kept_patches, text_id

CLIP = architecture("nano-16")
MODEL = VQAConfig(
    vision=CLIP.vision,
    vocab_size=40,
    question_length=6,
    question_layers=0,
    width=16,
    layers=1,
    num_heads=2,
    num_answers=5,
)


def as_pairs(spec):
    """Objectives as a task has them."""
    return tuple((k, tuple(sorted(v.items()))) for k, v in expand(spec).items())


TASKS = {
    "clip": ContrastiveTask(CLIP, (), (("clip", (("weight", 1.0),)),)),
    "mfd": ContrastiveTask(
        CLIP, (CLIP,), (("mfd", (("reduction", "sum"), ("weight", 1.0))),)
    ),
    "vqa": VQATask(MODEL, as_pairs({"bce": {}})),
}
START = jnp.float32(0)
OPTIMIZER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup": 0.1,
    "b2": 0.98,
    "clip_norm": 1.0,
}


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8),
        "text": {"student": rng.integers(1, 40, (2, 6)).astype(np.int32)},
        "bits": rng.integers(0, 2**32, 2, np.uint32),
        "question": {"student": rng.integers(1, 40, (2, 3, 6)).astype(np.int32)},
        "target": rng.uniform(size=(2, 3, 5)).astype(np.float32),
        "mask": np.ones((2, 3), bool),
    }
    return jax.tree.map(jnp.asarray, batch)


def gradient_of(task, batch, rates=()):
    """The compiled gradient of the model's parameters, and those."""
    config = OptimizerConfig(**OPTIMIZER, rates=rates)
    graph, state = nnx.split(task.init(nnx.Rngs(0)))
    params = nnx.to_pure_dict(state)

    def loss(params):
        model = nnx.merge(graph, stop_frozen(params, config))
        return task.loss(model, None, batch, START)[0]

    return jax.jit(jax.grad(loss)).lower(params).compile(), params


@pytest.mark.parametrize(
    ("task", "rates", "frozen"),
    [
        ("clip", (("text", 0.0),), {"text", "text_projection"}),
        ("clip", (("vision", 0.0),), {"vision"}),
        ("vqa", (("vision", 0.0),), {"vision"}),
    ],
)
def test_a_frozen_tower_gets_no_gradient_and_none_is_computed(
    batch, task, rates, frozen
):
    learning, params = gradient_of(TASKS[task], batch)
    stopped, _ = gradient_of(TASKS[task], batch, rates)
    for compiled, still in ((learning, set()), (stopped, frozen)):
        for part, gradients in compiled(params)["model"].items():
            moves = any(abs(g).max() > 0 for g in jax.tree.leaves(gradients))
            assert moves == (part not in still), part
    fewer, all_of_them = (c.cost_analysis()["flops"] for c in (stopped, learning))
    assert fewer < 0.95 * all_of_them


def test_three_in_four_patches_are_masked_anew_for_every_image():
    bits = jnp.arange(300, dtype=jnp.uint32)
    kept = np.asarray(kept_patches(bits, 16))
    assert kept.shape == (300, 4)
    assert all(len(set(row)) == 4 for row in kept)
    # 1,200 draws of 16 patches: the standard deviation of a count is about 8.
    assert np.abs(np.bincount(kept.ravel(), minlength=16) - 75).max() < 35
    np.testing.assert_array_equal(kept[7:9], kept_patches(bits[7:9], 16))
    assert kept_patches(bits, 1).shape == (300, 1)


def test_a_masked_image_is_what_the_student_sees_of_it(batch):
    task = TASKS["mfd"]
    trained = task.init(nnx.Rngs(0))
    teacher = {"logit_scale": jnp.float32(1)}
    said = trained.model.embeddings(
        preprocess(batch["image"], CLIP.vision), batch["text"]["student"]
    )
    held = {**batch, "teacher": [{"image": said.image, "text": said.text}]}
    loss = nnx.jit(
        lambda trained, batch: task.loss(trained, (teacher,), batch, START)[0]
    )
    keep = kept_patches(batch["bits"], CLIP.vision.num_patches)
    images = preprocess(batch["image"], CLIP.vision)
    masked = np.asarray(trained.model.encode_image(images, keep=keep), float)
    whole = np.asarray(said.image, float)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (masked, whole)]
    expected = ((unit[0] - unit[1]) ** 2).sum(1).mean()
    assert expected > 1e-3
    assert float(loss(trained, held)) == pytest.approx(expected, rel=1e-3)


SIGMOID = replace(CLIP, logit_bias_init=-10.0)
BOTH = as_pairs({"siglip": {}, "siglip_distill": {}})


def test_a_bias_is_learnt_beside_a_student_that_has_none():
    for student, learnt in ((CLIP, True), (SIGMOID, False)):
        task = ContrastiveTask(student, (CLIP,), BOTH)
        params = nnx.to_pure_dict(nnx.state(task.init(nnx.Rngs(0))))
        assert ("bias" in params.get("objective", {})) == learnt
        assert ("logit_bias" in params["model"]) != learnt


def test_a_sigmoid_teachers_bias_counts_held_or_not(batch):
    task = ContrastiveTask(CLIP, (SIGMOID,), BOTH)
    trained = task.init(nnx.Rngs(0))
    teacher = nnx.to_pure_dict(nnx.state(CLIPModel(SIGMOID, rngs=nnx.Rngs(1))))
    images = preprocess(batch["image"], CLIP.vision)
    ids = batch["text"]["student"]
    said = nnx.merge(graph_of(CLIPModel, SIGMOID), teacher).embeddings(images, ids)
    computed = {**batch, "text": {"student": ids, "teacher_0": ids}}
    held = {**computed, "teacher": [{"image": said.image, "text": said.text}]}
    loss = nnx.jit(lambda *given: task.loss(*given, START)[1]["siglip_distill"])
    scalars = {name: teacher[name] for name in ("logit_scale", "logit_bias")}
    expected = float(loss(trained, (teacher,), computed))
    assert float(loss(trained, (scalars,), held)) == pytest.approx(expected, rel=1e-4)
    other = {**scalars, "logit_bias": jnp.float32(-3)}
    assert float(loss(trained, (other,), held)) != pytest.approx(expected, rel=1e-2)


# Without class tokens: pooled by a mean and by attention.
MEAN, ATTENTIVE = (
    replace(CLIP, vision=replace(CLIP.vision, pooling=pooling, class_token=False))
    for pooling in ("mean", "attention")
)
PATCHES = {
    "tokens": {"form": "phi_s"},
    "hidden": {"form": "phi_s"},
    "attention": {},
    "principal": {},
}
ESTIMATED = ("mean", "matrix")


def test_what_is_estimated_stays_bit_for_bit_while_adaptors_learn(batch):
    spec = expand(PATCHES).items()
    objectives = tuple((name, tuple(sorted(x.items()))) for name, x in spec)
    task = ContrastiveTask(MEAN, (ATTENTIVE,), objectives)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    program = build_program(task, OptimizerConfig(**OPTIMIZER), mesh)
    teacher = nnx.to_pure_dict(nnx.state(CLIPModel(ATTENTIVE, rngs=nnx.Rngs(1))))
    ids = batch["text"]["student"]
    seen = {**batch, "text": {"student": ids, "teacher_0": ids}}
    state = program.init(0, 3)
    rng = np.random.default_rng(4)

    def drawn(path, x):
        if path[-1].key not in ESTIMATED:
            return x
        return jnp.asarray(rng.normal(size=x.shape), x.dtype)

    params = jax.tree_util.tree_map_with_path(drawn, state.params)
    before = jax.device_get(params["objective"])
    state = jax.device_put(replace(state, params=params), program.shardings)
    for _ in range(2):
        state, metrics = program.step(state, (teacher,), seen)
    assert np.isfinite(metrics["loss"])

    def compare(path, old, new):
        still = path[-1].key in ESTIMATED
        assert (old.tobytes() == np.asarray(new).tobytes()) == still, path

    after = state.params["objective"]
    jax.tree_util.tree_map_with_path(compare, before, after)


ANSWERS = {"bce": {"weight": 0.5}, "hinton": {"form": "sigmoid", "temperature": 1.0}}
# Of other images, other words and another length of question than the student's.
TEACHER = replace(
    MODEL,
    vision=replace(CLIP.vision, mean=(0.1, 0.2, 0.3)),
    vocab_size=50,
    question_length=8,
)


@pytest.fixture(scope="module")
def answering(batch):
    """A task with a teacher, what it trains, the teacher, and a batch of both."""
    task = VQATask(MODEL, as_pairs(ANSWERS), TEACHER)
    rng = np.random.default_rng(1)
    theirs = jnp.asarray(rng.integers(1, 50, (2, 3, 8)).astype(np.int32))
    mask = jnp.array([[True, True, False], [True, False, False]])
    asked = {**batch["question"], "teacher": theirs}
    teacher = VQAModel(TEACHER, rngs=nnx.Rngs(3))
    # A head like the others, whose answers differ; at the start all are near even.
    teacher.head.kernel[...] = 3 * jnp.asarray(rng.normal(size=(16, 5)), "float32")
    both = {**batch, "question": asked, "mask": mask}
    return task, task.init(nnx.Rngs(0)), teacher, both


lose = nnx.jit(lambda task, *given: task.loss(*given, START), static_argnums=0)


def said_by(model, batch, name):
    """A model's answers to its own questions about the images as it sees them."""
    images = preprocess(batch["image"], model.config.vision)
    return np.asarray(model(images, batch["question"][name]), float)


def test_a_vqa_model_learns_from_labels_and_from_its_teachers_answers(answering):
    task, trained, teacher, batch = answering
    x, z = (
        said_by(model, batch, name)
        for model, name in ((trained.model, "student"), (teacher, "teacher"))
    )
    p, q, t = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-z)), np.asarray(batch["target"])
    of_labels = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    of_teacher = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    asked = np.asarray(batch["mask"])
    expected = {
        name: rows.sum(-1)[asked].mean()
        for name, rows in (("bce", of_labels), ("hinton", of_teacher))
    }
    params = nnx.to_pure_dict(nnx.state(teacher))
    loss, terms = lose(task, trained, params, batch)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected, rel=1e-4)
    total = 0.5 * expected["bce"] + expected["hinton"]
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_what_is_asked_in_padding_changes_nothing(answering):
    task, trained, teacher, batch = answering
    params = nnx.to_pure_dict(nnx.state(teacher))
    other = {
        name: jnp.where(batch["mask"][..., None], ids, 7)
        for name, ids in batch["question"].items()
    }
    target = jnp.where(batch["mask"][..., None], batch["target"], 0.5)
    padded = {**batch, "question": other, "target": target}
    found, expected = (lose(task, trained, params, b)[0] for b in (padded, batch))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_tokens_that_a_batch_carries_stand_for_both_towers(answering):
    task, trained, teacher, batch = answering
    tokens = {
        name: model.vision(preprocess(batch["image"], model.config.vision)).all_tokens
        for name, model in (("student", trained.model), ("teacher", teacher))
    }
    params = nnx.to_pure_dict(nnx.state(teacher))
    expected = lose(task, trained, params, batch)[0]
    without = {k: v for k, v in batch.items() if k != "image"}
    found = lose(task, trained, params, without | {"tokens": tokens})[0]
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    # Then the teacher's tower is not needed, though the student's may learn.
    answering = {k: v for k, v in params.items() if k != "vision"}
    theirs = {"tokens": {"teacher": tokens["teacher"]}}
    found = lose(task, trained, answering, batch | theirs)[0]
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_the_teacher_of_answers_gets_no_gradient(answering):
    task, trained, teacher, batch = answering
    graph, state = nnx.split(trained)
    ours, theirs = map(nnx.to_pure_dict, (state, nnx.state(teacher)))

    def loss(theirs, ours):
        return task.loss(nnx.merge(graph, ours), theirs, batch, START)[0]

    gradients = jax.jit(jax.grad(loss))(theirs, ours)
    assert not any(g.any() for g in jax.tree.leaves(gradients))


def test_texts_are_alike_where_all_their_tokens_are():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (400, 8)).astype(np.int32)
    ids[1], ids[2, :7] = ids[0], ids[0, :7]
    found = np.asarray(text_id(jnp.asarray(ids)))
    assert (found[0] == found[1]).all()
    distinct = {tuple(row) for row in ids}
    assert len({tuple(row) for row in found}) == len(distinct)


def test_a_caption_that_a_batch_has_twice_can_be_left_out(batch):
    def loss(text, duplicates):
        spec = as_pairs({"clip": {"duplicates": duplicates}})
        task = ContrastiveTask(CLIP, (), spec)
        trained = task.init(nnx.Rngs(0))
        return float(task.loss(trained, None, {**batch, "text": text}, START)[0])

    ids = batch["text"]["student"]
    twice = {"student": jnp.broadcast_to(ids[:1], ids.shape)}
    # What is left of every row is its own pair.
    assert loss(twice, "mask") == pytest.approx(0, abs=1e-6)
    assert loss(twice, "negative") > 0.1
    assert loss({"student": ids}, "mask") == loss({"student": ids}, "negative")

"""A step is forward, backward, AdamW, as written by hand in float64."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from training import oracle

from kdjax.models import architecture
from kdjax.parallel import make_mesh, to_global
from kdjax.training.optimizer import OptimizerConfig, make_optimizer
from kdjax.training.rules import RULES
from kdjax.training.steps import build_program
from kdjax.training.tasks import ContrastiveTask, Task

CONFIG = OptimizerConfig(
    learning_rate=0.05,
    weight_decay=0.1,
    warmup=0.2,
    b2=0.98,
    clip_norm=0.5,
    rates=(("vision", 0.3),),
    ema=0.3,
)
STEPS, BATCH = 10, 6


class Lines(nnx.Module):
    """Two linear maps, the first of which is called the vision tower."""

    def __init__(self, rngs):
        self.vision = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)


@dataclass(frozen=True)
class Regression:
    """Fit targets that a frozen shift moves."""

    weight: float = 0.5

    def init(self, rngs):
        return Lines(rngs)

    def loss(self, trained, frozen, batch, progress):
        residual = trained.head(trained.vision(batch["x"])) - batch["y"]
        square = jnp.sum((residual - frozen["shift"]) ** 2)
        return self.weight * square, {"square": square}


FROZEN = {"shift": np.array([0.5, -1.0], np.float32)}


def by_hand(params, batch):
    """The loss and its gradients by the chain rule."""
    x, y = (batch[name].astype(float) for name in ("x", "y"))
    seen = x @ params["vision/kernel"] + params["vision/bias"]
    said = seen @ params["head/kernel"] + params["head/bias"]
    residual = said - y - FROZEN["shift"]
    back = residual @ params["head/kernel"].T
    gradients = {
        "vision/kernel": x.T @ back,
        "vision/bias": back.sum(0),
        "head/kernel": seen.T @ residual,
        "head/bias": residual.sum(0),
    }
    return (residual**2).sum(), gradients


def test_a_step_keeps_the_dtypes_of_its_state(mesh):
    """Whatever the parameters have, and with a gradient that is clipped."""

    @dataclass(frozen=True)
    class Half(Regression):
        def init(self, rngs):
            lines = Lines(rngs)
            half = jax.tree.map(
                lambda x: x.astype(jnp.bfloat16), nnx.state(lines.vision)
            )
            nnx.update(lines.vision, half)
            return lines

    program = build_program(Half(), CONFIG, mesh)
    batch = {"x": jnp.ones((BATCH, 3)), "y": jnp.ones((BATCH, 2))}
    after, _ = jax.eval_shape(program.step, program.shapes, FROZEN, batch)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(
        lambda x: x.dtype, program.shapes
    )


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": -1, "fsdp": 1, "tensor": 1})


@pytest.fixture(scope="module")
def program(mesh):
    return build_program(Regression(), CONFIG, mesh)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    shapes = {"x": (BATCH, 3), "y": (BATCH, 2)}
    return {k: rng.normal(size=shape).astype("float32") for k, shape in shapes.items()}


def flat(params):
    return traverse_util.flatten_dict(jax.device_get(params), sep="/")


def norms(name, tree):
    """The norm of all, and of each part."""
    parts = {
        f"{name}/{part}": oracle.norm({k: x for k, x in tree.items() if part in k})
        for part in ("vision", "head")
    }
    return {name: oracle.norm(tree), **parts}


def test_steps_are_those_of_adamw_by_hand(program, mesh, batch):
    state = program.init(0, STEPS)
    expected = oracle.AdamW(
        flat(state.params),
        decay=0.1,
        b2=0.98,
        clip=0.5,
        decayed=["vision/kernel", "head/kernel"],
    )
    average = dict(expected.params)
    rows = to_global(batch, mesh)
    for step in range(STEPS):
        square, gradients = by_hand(expected.params, batch)
        rate = oracle.rate(0.05, 2, step, STEPS)
        state, metrics = program.step(state, FROZEN, rows)
        rates = {k: rate * (0.3 if "vision" in k else 1) for k in gradients}
        expected.step(gradients, rates)
        assert {name: float(x) for name, x in metrics.items()} == pytest.approx(
            {
                "loss": square / 2,
                "square": square,
                **norms("grad_norm", gradients),
                **norms("param_norm", expected.params),
                "learning_rate": rate,
                "skipped": 0,
                "skipped_in_a_row": 0,
            },
            rel=1e-4,
        )
        for name, x in flat(state.params).items():
            np.testing.assert_allclose(x, expected.params[name], rtol=1e-4, atol=1e-5)
        keep = min(0.3, (1 + step) / (10 + step))
        average = {
            name: keep * average[name] + (1 - keep) * x
            for name, x in expected.params.items()
        }
        for name, x in flat(state.evaluated).items():
            np.testing.assert_allclose(x, average[name], rtol=1e-4, atol=1e-5)


def test_a_frozen_tower_stays_and_does_not_count_in_the_norm(mesh, batch):
    program = build_program(
        Regression(), replace(CONFIG, rates=(("vision", 0.0),)), mesh
    )
    state = program.init(0, STEPS)
    start = flat(state.params)
    _, gradients = by_hand(start, batch)
    state, metrics = program.step(state, FROZEN, to_global(batch, mesh))
    moved = {name: x for name, x in gradients.items() if "head" in name}
    assert float(metrics["grad_norm"]) == pytest.approx(oracle.norm(moved), rel=1e-4)
    for name, x in flat(state.params).items():
        assert (x == start[name]).all() == ("vision" in name)


def test_the_average_begins_where_the_parameters_do(program, mesh, batch):
    state = program.init(0, STEPS)
    ones = jax.tree.map(jnp.ones_like, state.params)
    begun = state.begin_at(ones)
    jax.tree.map(np.testing.assert_array_equal, begun.params, begun.ema)
    # They are no aliases, which could not both be donated.
    moved, _ = program.step(begun, FROZEN, to_global(batch, mesh))
    assert moved.evaluated is moved.ema
    plain = build_program(Regression(), replace(CONFIG, ema=0.0), mesh)
    without = plain.init(0, STEPS).begin_at(ones)
    assert without.ema is None
    assert without.evaluated is ones


@pytest.mark.parametrize("name", RULES)
def test_every_rules_state_has_a_place(mesh, name):
    config = replace(CONFIG, name=name, rates=(("text", 0.0),))
    task = ContrastiveTask(
        architecture("vit-t-16"), (), (("clip", (("weight", 1.0),)),)
    )
    program = build_program(task, config, mesh)
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))))
    state = jax.eval_shape(make_optimizer(config).init, params)
    places = program.shardings.opt_state
    jax.tree.map(lambda x, place: place.shard_shape(x.shape), state, places)


class Sharp(nnx.Module):
    """A logit scale that starts just below its limit."""

    def __init__(self):
        self.logit_scale = nnx.Param(jnp.float32(4.6))


@dataclass(frozen=True)
class Sharpen:
    """The larger the scale, the smaller the loss."""

    def init(self, rngs):
        return Sharp()

    def loss(self, trained, frozen, batch, progress):
        return -trained.logit_scale[...], {}


def test_a_step_does_not_take_the_logit_scale_beyond_a_hundred(mesh):
    program = build_program(Sharpen(), replace(CONFIG, rates=()), mesh)
    state = program.init(0, STEPS)
    for _ in range(3):
        state, _ = program.step(state, None, {})
    scale = float(state.params["logit_scale"])
    assert scale == pytest.approx(np.log(100), rel=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_moves_nothing_and_counts(
    program, mesh, batch, poison
):
    """Of 1e30 the square is not finite, nor is the gradient's norm."""
    state, _ = program.step(program.init(0, STEPS), FROZEN, to_global(batch, mesh))
    before = jax.device_get(state)
    bad = to_global({**batch, "y": np.full_like(batch["y"], poison)}, mesh)
    for times in (1, 2):
        state, metrics = program.step(state, FROZEN, bad)
        assert not np.isfinite(float(metrics["loss"]))
        assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == times
    after = jax.device_get(state)
    for kept in ("steps", "params", "opt_state"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(before, kept), getattr(after, kept)
        )
    assert (int(before.step), int(after.step)) == (1, 3)
    state, metrics = program.step(state, FROZEN, to_global(batch, mesh))
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (2, 0)
    assert np.isfinite(float(metrics["loss"]))
    assert (flat(state.params)["head/kernel"] != before.params["head"]["kernel"]).any()


def test_the_state_counts_its_steps(program, mesh, batch):
    state = program.init(0, STEPS)
    assert (int(state.step), int(state.steps)) == (0, STEPS)
    for done in (1, 2, 3):
        state, _ = program.step(state, FROZEN, to_global(batch, mesh))
        assert (int(state.step), int(state.steps)) == (done, STEPS)


@dataclass(frozen=True)
class Told:
    """Tells the progress that it is given."""

    def init(self, rngs):
        return Sharp()

    def loss(self, trained, frozen, batch, progress):
        return trained.logit_scale[...], {"progress": progress}


def test_the_progress_is_the_share_of_the_steps_that_are_made(mesh):
    """It is the state's, so it goes on where a run does, and follows its length."""
    program = build_program(Told(), replace(CONFIG, rates=()), mesh)
    state, told = program.init(0, 4), []
    for _ in range(3):
        state, metrics = program.step(state, None, {})
        told.append(float(metrics["progress"]))
    assert told == [0, 0.25, 0.5]
    longer = replace(state, steps=jnp.int32(6))
    assert float(program.step(longer, None, {})[1]["progress"]) == 0.5
    empty = program.init(0, 0)
    assert float(program.step(empty, None, {})[1]["progress"]) == 0


def test_a_seed_is_a_start(program):
    first, again, other = (flat(program.init(seed, 5).params) for seed in (1, 1, 2))
    for name, x in first.items():
        np.testing.assert_array_equal(x, again[name])
    assert (first["head/kernel"] != other["head/kernel"]).all()


def test_only_the_state_is_donated(program, mesh, batch):
    state, rows = program.init(0, STEPS), to_global(batch, mesh)
    frozen = jax.tree.map(jnp.asarray, FROZEN)
    program.step(state, frozen, rows)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves((frozen, rows)))


def test_runs_of_all_lengths_share_one_compiled_step(program, mesh, batch):
    rows = to_global(batch, mesh)
    program.step(program.init(0, 10), FROZEN, rows)
    compiled = program.step._cache_size()
    program.step(program.init(1, 1000), FROZEN, rows)
    assert program.step._cache_size() == compiled


def test_equal_arguments_give_the_same_program(program, mesh):
    assert isinstance(Regression(), Task)
    assert build_program(Regression(), replace(CONFIG), mesh) is program
    assert build_program(Regression(weight=2.0), CONFIG, mesh) is not program
    assert build_program(Regression(), replace(CONFIG, b2=0.9), mesh) is not program

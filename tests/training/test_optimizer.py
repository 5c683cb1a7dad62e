"""Schedules, what of a model decays, moves and stays, and the average."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from hypothesis import example, given, settings
from hypothesis import strategies as st
from training import oracle

from kdjax.models import VQAConfig, architecture
from kdjax.training.optimizer import (
    SCHEDULES,
    OptimizerConfig,
    begin_average,
    clamp_logit_scale,
    learning_rate,
    make_optimizer,
    move_average,
    stop_frozen,
)
from kdjax.training.tasks import ContrastiveTask, VQATask

CONFIG = OptimizerConfig(
    learning_rate=1e-3, weight_decay=0.1, warmup=0.25, b2=0.98, clip_norm=1.0
)
CLIP = architecture("nano-16")
OBJECTIVES = (
    ("fd", (("reduction", "sum"), ("weight", 1.0))),
    ("icl", (("scale", "raw"), ("weight", 1.0))),
)
TASKS = {
    "clip": ContrastiveTask(CLIP, (replace(CLIP, embed_dim=8),), OBJECTIVES),
    "vqa": VQATask(
        VQAConfig(
            vision=CLIP.vision,
            vocab_size=20,
            question_length=6,
            question_layers=1,
            width=16,
            layers=1,
            num_heads=2,
            num_answers=5,
        ),
        (("bce", (("weight", 1.0),)),),
    ),
}


# What a tower's name stands for, as a pattern.
TOWERS = {"vision": ("vision",), "text": ("text", "text_projection")}


def rate(step, steps, **changes):
    config = replace(CONFIG, **changes)
    return float(learning_rate(config, jnp.int32(step), jnp.int32(steps)))


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 0.05),
        (4, 0.25),
        (9, 0.5),
        (19, 1),
        (49, 0.5),
        (78, np.sin(np.pi / 120) ** 2),
    ],
    ids=["start", "rising", "half way up", "the peak", "half way down", "last"],
)
def test_the_rate_rises_in_a_line_and_falls_in_a_cosine(step, share):
    assert rate(step, 79) == pytest.approx(1e-3 * share, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=30)
@given(data=st.data(), steps=st.integers(1, 100_000))
@example(data=None, steps=1)
def test_the_rate_is_that_of_the_oracle_for_any_number_of_steps(schedule, data, steps):
    warmup = data.draw(st.integers(0, steps)) if data else 0
    step = data.draw(st.integers(0, steps - 1)) if data else 0
    expected = oracle.rate(1e-3, max(warmup, 1), step, steps, schedule)
    found = rate(step, steps, warmup=warmup / steps, schedule=schedule)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_update_moves_something(schedule):
    for steps in (1, 2, 3, 40):
        assert all(rate(step, steps, schedule=schedule) > 0 for step in range(steps))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_ends_at_zero_and_stays_there(schedule):
    assert rate(80, 80, schedule=schedule) == pytest.approx(0, abs=1e-9)
    assert rate(200, 80, schedule=schedule) == pytest.approx(0, abs=1e-9)


def test_the_reciprocal_root_and_the_constant_have_no_end():
    assert rate(319, 80, schedule="rsqrt") == pytest.approx(1e-3 / 4, rel=1e-6)
    assert rate(319, 80, schedule="constant") == pytest.approx(1e-3, rel=1e-6)


@pytest.fixture(scope="module", params=TASKS)
def params(request):
    """All that a task trains, each parameter a single one in as many dimensions."""
    module = nnx.eval_shape(lambda: TASKS[request.param].init(nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(module))
    return jax.tree.map(lambda x: np.ones((1,) * x.ndim, np.float32), shapes)


def updates(params, gradients, **changes):
    """The first update by the paths of the parameters."""
    optimizer = make_optimizer(replace(CONFIG, **changes))
    found, _ = optimizer.update(gradients, optimizer.init(params), params)
    return traverse_util.flatten_dict(jax.device_get(found))


def like(params, value):
    return jax.tree.map(lambda x: np.full_like(x, value), params)


def test_decay_touches_matrices_and_nothing_that_scales_or_shifts(params):
    moved, stayed = set(), set()
    for path, update in updates(params, like(params, 0)).items():
        if update.any():
            moved.add(path[-1])
            np.testing.assert_allclose(update, -0.1, rtol=1e-6)
        else:
            stayed.add(path[-1])
    vectors = {"bias", "scale", "class_embedding", "position_embedding"}
    assert moved == {"kernel", "embedding"}
    assert vectors <= stayed <= vectors | {"logit_scale"}
    assert ("logit_scale" in stayed) == ("objective" in params)


@pytest.mark.parametrize("pattern", ["vision", "text"])
@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_a_rate_scales_its_tower_alone(params, pattern, factor):
    """With its decay, and the text tower with its projection."""
    gradients = like(params, 0.5)
    plain = updates(params, gradients)
    assert all((update < 0).all() for update in plain.values())
    found = updates(params, gradients, rates=((pattern, factor),))
    for path, update in found.items():
        ours = path[0] == "model" and path[1] in TOWERS[pattern]
        np.testing.assert_allclose(update, plain[path] * (factor if ours else 1), 1e-6)


@pytest.mark.parametrize(
    ("rates", "stopped"),
    [
        ((), ()),
        ((("text", 0.0),), TOWERS["text"]),
        ((("vision", 0.0),), TOWERS["vision"]),
        ((("text", 0.0), ("vision", 0.0)), TOWERS["text"] + TOWERS["vision"]),
    ],
)
def test_what_stays_gets_no_gradient(params, rates, stopped):
    config = replace(CONFIG, rates=rates)

    def total(params):
        return sum(x.sum() for x in jax.tree.leaves(stop_frozen(params, config)))

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(total))(params))
    for path, gradient in gradients.items():
        stays = path[0] == "model" and path[1] in stopped
        np.testing.assert_array_equal(gradient, 0 if stays else 1)


def test_gradients_are_clipped_by_their_global_norm():
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    params = {name: jnp.asarray(x, jnp.float32) for name, x in start.items()}
    optimizer = make_optimizer(CONFIG)
    state = optimizer.init(params)
    expected = oracle.AdamW(start, decay=0.1, b2=0.98, clip=1.0, decayed=["kernel"])
    # A first gradient within the norm, one far out of it, and one just inside.
    for length in (0.1, 50.0, 0.9):
        raw = {name: rng.normal(size=x.shape) for name, x in start.items()}
        size = length / oracle.norm(raw)
        gradients = {name: x * size for name, x in raw.items()}
        given = {name: jnp.asarray(x, jnp.float32) for name, x in gradients.items()}
        update, state = optimizer.update(given, state, params)
        params = {name: params[name] + 0.01 * update[name] for name in params}
        expected.step(gradients, {"kernel": 0.01, "bias": 0.01})
        for name, x in expected.params.items():
            np.testing.assert_allclose(params[name], x, atol=1e-5)


def test_a_norm_of_zero_clips_nothing():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    found = [
        make_optimizer(replace(CONFIG, name="lion", b2=0.0, clip_norm=norm))
        for norm in (0.0, 1e30)
    ]
    moved = [x.update(params, x.init(params), params)[0] for x in found]
    jax.tree.map(np.testing.assert_array_equal, *moved)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_the_average_follows_and_forgets_its_start(decay):
    """Its decay is (1 + t) / (10 + t) until that is more than the config's."""
    config = replace(CONFIG, ema=decay, rates=(("text", 0.0),))
    params = {"head": jnp.float32([1.0, -2.0]), "text": jnp.float32([0.1])}
    average = begin_average(params)
    expected = np.array([1.0, -2.0])
    for step in range(20):
        params = {**params, "head": params["head"] + step}
        average = move_average(average, params, jnp.int32(step), config)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * np.asarray(params["head"], float)
        np.testing.assert_allclose(average["head"], expected, rtol=1e-5)
    # It is what is frozen to the last bit, which a mean of two equal numbers need not.
    np.testing.assert_array_equal(average["text"], params["text"])


def test_the_average_is_float32_of_parameters_that_are_not():
    params = {"head": jnp.bfloat16([1.0])}
    config = replace(CONFIG, ema=0.5)
    average = move_average(begin_average(params), params, jnp.int32(0), config)
    assert average["head"].dtype == jnp.float32


@pytest.mark.parametrize("value", [-1.0, 2.66, 4.6, 4.7, 30.0])
def test_the_logit_scale_is_at_most_a_hundred(value):
    params = {"model": {"logit_scale": value, "head": {"bias": 30.0}}, "scale": 30.0}
    clamped = clamp_logit_scale(jax.tree.map(jnp.float32, params), 100.0)
    expected = {**params, "model": {**params["model"]}}
    expected["model"]["logit_scale"] = min(value, np.log(100))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), clamped, expected)


def test_the_scale_of_a_sigmoid_model_is_left_to_itself():
    softmax = {"logit_scale": jnp.float32(6.0)}
    sigmoid = {**softmax, "logit_bias": jnp.float32(-10.0)}
    kept = clamp_logit_scale({"model": sigmoid, "other": {"model": softmax}}, 50.0)
    assert kept["model"] == sigmoid
    expected = pytest.approx(np.log(50))
    assert float(kept["other"]["model"]["logit_scale"]) == expected

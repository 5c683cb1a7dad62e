"""The learning rate, and what of a model decays, moves and stays."""

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
    OptimizerConfig,
    clamp_logit_scale,
    learning_rate,
    make_optimizer,
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


LAST = np.sin(np.pi / 120) ** 2


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


@settings(max_examples=50)
@given(data=st.data(), steps=st.integers(1, 100_000))
@example(data=None, steps=1)
def test_the_rate_is_that_of_the_oracle_for_any_number_of_steps(data, steps):
    warmup = data.draw(st.integers(0, steps)) if data else 0
    step = data.draw(st.integers(0, steps - 1)) if data else 0
    expected = oracle.rate(1e-3, max(warmup, 1), step, steps)
    found = rate(step, steps, warmup=warmup / steps)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 80])
def test_every_update_moves_something(steps):
    assert all(rate(step, steps) > 0 for step in range(steps))


def test_the_rate_ends_at_zero_and_stays_there():
    assert rate(80, 80) == pytest.approx(0, abs=1e-9)
    assert rate(200, 80) == pytest.approx(0, abs=1e-9)


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


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_the_vision_rate_scales_the_vision_tower_alone(params, factor):
    gradients = like(params, 0.5)
    plain = updates(params, gradients)
    assert all((update < 0).all() for update in plain.values())
    for path, update in updates(params, gradients, vision_rate=factor).items():
        expected = plain[path] * (factor if "vision" in path else 1)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_the_text_rate_scales_the_text_tower_and_its_projection_alone(params, factor):
    """And not the objective's head for texts."""
    gradients = like(params, 0.5)
    plain = updates(params, gradients)
    for path, update in updates(params, gradients, text_rate=factor).items():
        ours = path[:2] in {("model", "text"), ("model", "text_projection")}
        np.testing.assert_allclose(update, plain[path] * (factor if ours else 1), 1e-6)


@pytest.mark.parametrize(
    ("rates", "stopped"),
    [
        ({}, ()),
        ({"text_rate": 0.0}, ("text", "text_projection")),
        ({"vision_rate": 0.0}, ("vision",)),
        ({"vision_rate": 0.0, "text_rate": 0.0}, ("vision", "text", "text_projection")),
    ],
)
def test_what_stays_gets_no_gradient(params, rates, stopped):
    config = replace(CONFIG, **rates)

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


@pytest.mark.parametrize("value", [-1.0, 2.66, 4.6, 4.7, 30.0])
def test_the_logit_scale_is_at_most_a_hundred(value):
    params = {"model": {"logit_scale": value, "head": {"bias": 30.0}}, "scale": 30.0}
    clamped = clamp_logit_scale(jax.tree.map(jnp.float32, params))
    expected = {**params, "model": {**params["model"]}}
    expected["model"]["logit_scale"] = min(value, np.log(100))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), clamped, expected)


def test_the_scale_of_a_sigmoid_model_is_left_to_itself():
    softmax = {"logit_scale": jnp.float32(6.0)}
    sigmoid = {**softmax, "logit_bias": jnp.float32(-10.0)}
    kept = clamp_logit_scale({"model": sigmoid, "other": {"model": softmax}})
    assert kept["model"] == sigmoid
    expected = pytest.approx(np.log(100))
    assert float(kept["other"]["model"]["logit_scale"]) == expected

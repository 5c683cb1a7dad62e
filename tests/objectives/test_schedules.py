"""Numbers that move with the steps: their shapes, and what they do to objectives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from objectives import answers, oracle

from kdjax.errors import UserError
from kdjax.objectives import build_objective, expand
from kdjax.objectives.registry import REGISTRY
from kdjax.objectives.schedules import Schedule

SHAPES = {
    "linear": lambda gone: gone,
    "cosine": lambda gone: (1 - math.cos(math.pi * gone)) / 2,
    "step": lambda gone: 0.0,
}


@pytest.mark.parametrize("shape", SHAPES)
@given(progress=st.floats(0, 1, width=32))
def test_a_value_goes_from_start_to_end_between_two_shares_of_the_steps(
    shape, progress
):
    schedule = Schedule(3.0, 0.5, shape=shape, begin=0.25, until=0.75)
    found = float(schedule.at(progress))
    if progress >= 0.75:
        assert found == 0.5
    elif progress <= 0.25:
        assert found == 3.0
    else:
        expected = 3.0 - 2.5 * SHAPES[shape]((progress - 0.25) / 0.5)
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.7, 0.9])
def test_the_end_is_reached_in_the_very_step_that_is_named(shape, share):
    schedule = Schedule(1.0, 0.0, shape=shape, until=share)
    assert float(schedule.at(jnp.int32(round(100 * share)) / jnp.int32(100))) == 0


X = answers.as_float32(oracle.inputs(np.random.default_rng(0), 5, 3, 6))
STUDENT, TEACHER = (answers.embeddings(X, side) for side in ("student", "teacher"))


def build(spec):
    return build_objective(spec, student_width=3, teacher_width=6, rngs=nnx.Rngs(0))


def program(spec):
    """Progress -> the terms, and the total's gradients along the student."""
    graph, state = nnx.split(build(spec))

    def total(student, progress):
        return nnx.merge(graph, state)(student, TEACHER, progress)

    function = jax.jit(jax.value_and_grad(total, has_aux=True))

    def run(progress):
        (value, terms), gradients = function(STUDENT, jnp.float32(progress))
        return float(value), jax.tree.map(float, terms), gradients

    return run


def test_a_teacher_falls_silent_at_once_and_entirely():
    """Early-stopped distillation: all of it before, exactly nothing after."""
    stop = {"start": 2, "end": 0, "shape": "step", "until": 0.6}
    stopped = program({"crd": {"weight": stop}})
    full = program({"crd": {"weight": 2}})
    for progress in (0.0, 0.3, 0.59):
        ours, theirs = stopped(progress), full(progress)
        assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
        assert ours[2].image.any()
        for mine, other in zip(
            *map(jax.tree.leaves, (ours[2], theirs[2])), strict=True
        ):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)
    for progress in (0.6, 0.61, 1.0):
        value, terms, gradients = stopped(progress)
        assert value == 0
        assert terms["crd"] > 0
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_a_task_loss_that_is_beside_it_goes_on():
    stop = {"start": 1, "end": 0, "shape": "step", "until": 0.6}
    after = program({"clip": {}, "fd": {"weight": stop}})(0.7)
    alone = program({"clip": {}})(0.7)
    assert after[0] == alone[0]
    np.testing.assert_allclose(after[2].image, alone[2].image, atol=1e-7)


def test_a_weight_that_moves_is_told_and_terms_stay_without_it():
    run = program({"clip": {"weight": {"start": 1, "end": 3}}, "crd": {}})
    for progress in (0.0, 0.25):
        value, terms, _ = run(progress)
        assert terms["clip_weight"] == pytest.approx(1 + 2 * progress)
        assert set(terms) == {"clip", "clip_weight", "crd"}
        expected = terms["clip_weight"] * terms["clip"] + terms["crd"]
        assert value == pytest.approx(expected, rel=1e-6)


def test_without_progress_it_is_the_start():
    objective = build({"clip": {"weight": {"start": 2, "end": 0}}})
    total, terms = objective(STUDENT, TEACHER)
    assert float(total) == pytest.approx(2 * float(terms["clip"]))


# Shares are in test_principal.py, classes in test_classes.py.
SCHEDULED = {
    name: scheduled
    for name, entry in REGISTRY.items()
    if (scheduled := [k for k, option in entry.options.items() if option.scheduled])
    and not entry.needs
    and name != "principal"
    and entry.of == "pairs"
}


def test_temperatures_and_scales_are_what_they_are_at_the_moment():
    moving = {"start": 2.0, "end": 6.0}
    moved = program(
        {name: dict.fromkeys(SCHEDULED[name], moving) for name in SCHEDULED}
    )
    for progress, number in ((0.0, 2.0), (0.25, 3.0)):
        spec = {name: dict.fromkeys(SCHEDULED[name], number) for name in SCHEDULED}
        assert moved(progress)[1] == pytest.approx(program(spec)(0.0)[1], rel=1e-5)


def test_which_options_may_move():
    assert SCHEDULED["crd"] == ["teacher_scale"]
    assert SCHEDULED["affinity"] == ["student_scale", "teacher_scale"]
    assert SCHEDULED["siglip_distill"] == ["temperature", "teacher_scale"]
    assert not {"rkd", "fd", "icl"} & set(SCHEDULED)


SPEC = {"crd": {"weight": {"start": 1, "end": 0}}, "clip": {}}


def test_it_is_a_static_argument_with_all_that_is_filled_in():
    expanded = expand(SPEC)
    assert expanded["crd"]["weight"] == Schedule(1.0, 0.0, "linear", 0.0, 1.0)
    assert repr(expanded["crd"]["weight"].start) == "1.0"
    assert expand(expanded) == expanded
    graphs = [nnx.split(build(spec))[0] for spec in (SPEC, expanded)]
    assert graphs[0] == graphs[1]
    assert hash(graphs[0]) == hash(graphs[1])
    other = nnx.split(build({**SPEC, "crd": {"weight": {"start": 1, "end": 0.5}}}))[0]
    assert graphs[0] != other


def test_it_is_written_as_its_two_values():
    assert f"{expand(SPEC)['crd']['weight']:g}" == "1 to 0"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"crd": {"weight": {"start": 1}}},
            "weight of .* a schedule with start and end",
        ),
        ({"crd": {"weight": {}}}, "give a number, or a schedule with start and end"),
        (
            {"crd": {"weight": {"start": 1, "end": 0, "stop": 1}}},
            "'stop': 1.*and perhaps shape, begin and until",
        ),
        (
            {"crd": {"weight": {"start": 1, "end": 0, "shape": "sine"}}},
            "the shape of weight of objective crd is 'sine'; give linear or cosine or",
        ),
        (
            {"crd": {"weight": {"start": 1, "end": 0, "begin": 0.5, "until": 0.5}}},
            "begin at 0.5 and to go on until 0.5; give shares of the steps from 0 to 1",
        ),
        (
            {"crd": {"weight": {"start": 1, "end": 0, "until": 300}}},
            "go on until 300; give shares",
        ),
        (
            {"crd": {"weight": {"start": 1, "end": 0, "begin": "early"}}},
            "begin at 'early'",
        ),
        (
            {"crd": {"weight": {"start": 1, "end": -1}}},
            "the end of weight of objective crd is -1; give a number of at least 0",
        ),
        (
            {"crd": {"teacher_scale": {"start": "own", "end": 9}}},
            "the start of teacher_scale of objective crd is 'own'; give a number",
        ),
        ({"fd": {"reduction": {"start": 1, "end": 0}}}, "give 'sum' or 'mean'"),
        (
            {"rkd": {"angle": {"start": 1, "end": 0}}},
            "angle of objective rkd is .*; give a number of at least 0",
        ),
    ],
)
def test_what_is_no_schedule_or_stands_where_none_may_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        expand(spec)

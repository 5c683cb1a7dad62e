"""Several teachers at once: their mean, or an objective's mean over them."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from objectives import answers, oracle

from kdjax.objectives import build_objective, expand
from kdjax.objectives.registry import REGISTRY

STUDENT, TEACHERS = 3, {"teacher": 6, "teacher2": 4}
SIDES = tuple(TEACHERS)
ALL = [name for name, entry in REGISTRY.items() if entry.takes_all]
# Those that compare towers are in test_tokens.py.
TOWERS = {"tokens", "hidden", "attention"}
ONE = [
    name
    for name, entry in REGISTRY.items()
    if entry.needs_teacher and not entry.takes_all and entry.of == "pairs"
    if name not in TOWERS
]


@cache
def inputs():
    rng = np.random.default_rng(3)
    x = oracle.inputs(rng, 5, STUDENT, TEACHERS["teacher"])
    for modality in ("image", "text"):
        x[f"teacher2_{modality}"] = rng.normal(size=(5, TEACHERS["teacher2"]))
    return x | {"teacher2_scale": np.array(4.0), "teacher2_bias": np.array(-1.0)}


ORACLES = {
    "multi_teacher": ({}, partial(oracle.multi_teacher, sides=SIDES)),
    "multi_teacher apart": (
        {"average": "divergences"},
        partial(oracle.multi_teacher, sides=SIDES, together=False),
    ),
    "siglip_distill": (
        {"temperature": 2.0},
        partial(oracle.siglip_distill, temperature=2.0, sides=SIDES),
    ),
    "siglip_distill mobileclip2": (
        {"form": "mobileclip2"},
        partial(oracle.siglip_distill, mobileclip2=True, sides=SIDES),
    ),
}


@pytest.mark.parametrize("case", ORACLES)
def test_values_and_gradients_are_those_of_the_oracle(case):
    options, loss = ORACLES[case]
    name = case.split()[0]
    values, gradients = answers.answers({name: options}, inputs(), SIDES)
    assert values[name] == pytest.approx(loss(inputs()), rel=1e-5)
    answers.check_with_oracle(gradients[name], loss, oracle.gradient, inputs())


def test_the_mean_is_taken_of_probabilities_by_default():
    spec = {"multi_teacher": {}}
    together, _ = answers.answers(spec, inputs(), SIDES)
    spec["multi_teacher"] = {"average": "divergences"}
    apart, _ = answers.answers(spec, inputs(), SIDES)
    # The entropy of a mean is the larger: a divergence from it is the smaller.
    assert together["multi_teacher"] < apart["multi_teacher"] - 1e-3


def test_the_mean_of_divergences_is_the_objective_of_one_against_each():
    spec = {"crd": {}, "multi_teacher": {"average": "divergences"}}
    values, gradients = answers.answers(spec, inputs(), SIDES)
    assert values["multi_teacher"] == pytest.approx(values["crd"], rel=1e-5)
    for leaf, gradient in gradients["crd"].items():
        np.testing.assert_allclose(
            gradients["multi_teacher"][leaf], gradient, atol=1e-6
        )


@pytest.mark.parametrize("average", ["probabilities", "divergences"])
def test_of_one_teacher_it_is_crd(average):
    spec = {"crd": {}, "multi_teacher": {"average": average}}
    values, gradients = answers.answers(spec, inputs())
    assert values["multi_teacher"] == pytest.approx(values["crd"], rel=1e-5)
    for leaf, gradient in gradients["crd"].items():
        np.testing.assert_allclose(
            gradients["multi_teacher"][leaf], gradient, atol=1e-6
        )


def sides():
    x = answers.as_float32(inputs())
    student, *teachers = (answers.embeddings(x, s) for s in ("student", *SIDES))
    return student, tuple(teachers)


def build(names, width):
    spec = {name: {} for name in names}
    return build_objective(
        spec, student_width=STUDENT, teacher_width=width, rngs=nnx.Rngs(0)
    )


def terms(objective, student, teachers):
    graph, state = nnx.split(objective)
    function = jax.jit(lambda state, *given: nnx.merge(graph, state)(*given)[1])
    found = function(state, student, teachers)
    return {name: float(term) for name, term in found.items()}


def test_each_teachers_own_calibrated_scale_makes_its_targets():
    student, teachers = sides()
    scales = (jnp.float32(7), jnp.float32(6))
    calibrated = tuple(
        replace(teacher, calibrated_scale=scale)
        for teacher, scale in zip(teachers, scales, strict=True)
    )
    found = terms(build(["multi_teacher"], (6, 4)), student, calibrated)
    x = inputs() | {"teacher_scale": 7.0, "teacher2_scale": 6.0}
    expected = oracle.multi_teacher(x, SIDES)
    assert found["multi_teacher"] == pytest.approx(expected, rel=1e-5)


def test_an_objective_of_one_teacher_is_the_mean_over_all_with_parts_of_each():
    student, teachers = sides()
    together = build(ONE, tuple(TEACHERS.values()))
    for index, parts in enumerate(together.parts):
        for scale in (parts.scale, parts.fusion.scale):
            scale[...] = jnp.float32(2 + index)
    apart = []
    for index, width in enumerate(TEACHERS.values()):
        one = build(ONE, width)
        one.parts = nnx.List([together.parts[index]])
        apart.append(terms(one, student, teachers[index]))
    for name, found in terms(together, student, teachers).items():
        values = [each[name] for each in apart]
        assert values[0] != pytest.approx(values[1], rel=1e-3), name
        assert found == pytest.approx(np.mean(values), rel=1e-5), name


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_teachers_means_nothing_and_twice_the_same_is_one(name):
    student, (first, second) = sides()
    objective = build([name], (6, 4))
    ways = [terms(objective, student, x) for x in ((first, second), (second, first))]
    assert ways[0] == pytest.approx(ways[1], rel=1e-6)
    twice, once = (terms(objective, student, (first,) * n) for n in (2, 1))
    assert twice == pytest.approx(once, rel=1e-6)
    assert twice != pytest.approx(ways[0], rel=1e-3)


def test_heads_are_each_teachers_own_and_there_where_widths_differ():
    state = nnx.state(build(["fd", "icl", "siglip_distill"], (6, STUDENT)))
    assert {path[:3] for path in dict(nnx.to_flat_state(state))} == {
        ("parts", 0, "projection"),
        ("parts", 0, "scale"),
        ("parts", 1, "scale"),
        ("bias",),
    }


def test_the_preset_of_mobileclip_is_its_teachers_at_a_scale_of_100():
    options = {"teacher_scale": 100.0, "average": "probabilities", "weight": 1.0}
    assert expand("mobile_clip") == {"multi_teacher": options}

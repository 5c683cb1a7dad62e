"""CLIP-KD's objectives against its released code, an oracle, and the laws they obey."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from objectives import answers, oracle

from kdjax.embeddings import Embeddings
from kdjax.objectives.clip_kd import crd_loss, fd_loss, icl_loss, mfd_loss
from kdjax.objectives.cosines import normalize
from kdjax.objectives.gradients import gd_loss

RELEASED = {
    "clip": {},
    "crd": {},
    "fd": {"reduction": "mean"},
    "icl": {},
    "cross_kd": {},
    "gd": {"form": "released"},
    "afd": {},
}
CASES = ["equal", "wider"]
# The released code's augmented features want embeddings of one width.
TERMS = [(c, name) for c in CASES for name in RELEASED if (c, name) != ("wider", "afd")]
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=15)


def golden(case):
    return answers.golden("clip_kd.npz", f"{case}/")


@cache
def against_golden(case):
    start = np.log(1 / 0.07)
    x = answers.inputs_of(golden(case))
    return answers.answers(RELEASED, x | {"learnt_scale": start, "fusion_scale": start})


@pytest.mark.parametrize(("case", "name"), TERMS)
def test_values_are_those_of_the_released_code(case, name):
    values, _ = against_golden(case)
    assert values[name] == pytest.approx(golden(case)[f"{name}/value"], rel=1e-5)


@pytest.mark.parametrize(("case", "name"), TERMS)
def test_gradients_are_those_of_the_released_code(case, name):
    answers.check_gradients(against_golden(case)[1][name], golden(case), name)


@pytest.mark.parametrize(
    ("name", "scale"),
    [("icl", "learnt_scale"), ("cross_kd", "learnt_scale"), ("afd", "fusion_scale")],
)
def test_an_exponential_scale_is_the_released_one_by_the_chain_rule(name, scale):
    expected = golden("equal")
    c = np.log(1 / 0.07)
    x = answers.inputs_of(expected) | {scale: np.log(c)}
    values, gradients = answers.answers({name: {"scale": "exp"}}, x)
    assert values[name] == pytest.approx(expected[f"{name}/value"], rel=1e-5)
    slope = c * expected[f"{name}/gradient/{scale}"]
    assert gradients[name][scale] == pytest.approx(slope, rel=1e-4)


FORMS = {
    "released": RELEASED,
    "ours": {
        "fd": {},
        "mfd": {},
        "icl": {"scale": "exp"},
        "gd": {},
        "afd": {"scale": "exp"},
    },
    "paper": {"gd": {"form": "paper"}, "mfd": {"reduction": "mean"}},
}
ORACLES = {
    ("clip", "released"): oracle.clip,
    ("crd", "released"): oracle.crd,
    ("fd", "released"): oracle.fd_mean,
    ("icl", "released"): oracle.icl,
    ("cross_kd", "released"): oracle.cross_kd,
    ("gd", "released"): oracle.gd_released,
    ("afd", "released"): oracle.afd,
    ("fd", "ours"): oracle.fd,
    ("mfd", "ours"): oracle.mfd,
    ("mfd", "paper"): oracle.mfd_mean,
    ("icl", "ours"): oracle.icl_exp,
    ("gd", "ours"): oracle.gd_unit,
    ("afd", "ours"): oracle.afd_exp,
    ("gd", "paper"): oracle.gd_paper,
}


@cache
def against_oracle(student, teacher, form):
    x = oracle.inputs(np.random.default_rng(student), 5, student, teacher)
    return x, answers.answers(FORMS[form], x)


@pytest.mark.parametrize("widths", [(4, 4), (3, 6)])
@pytest.mark.parametrize(("name", "form"), ORACLES)
def test_values_and_gradients_are_those_of_the_oracle(name, form, widths):
    x, (values, gradients) = against_oracle(*widths, form)
    loss = ORACLES[name, form]
    assert values[name] == pytest.approx(loss(x), rel=1e-5)
    answers.check_with_oracle(gradients[name], loss, oracle.gradient, x)


def drawn(seed, student=4, teacher=4):
    return answers.as_float32(
        oracle.inputs(np.random.default_rng(seed), 5, student, teacher)
    )


def pair_of(x):
    return [answers.embeddings(x, side) for side in ("student", "teacher")]


@few
@given(seed=SEEDS)
def test_another_student_does_worse(seed):
    student, teacher = pair_of(drawn(seed))
    assert crd_loss(student, teacher).value() > 0
    assert 0 < fd_loss(student, teacher) <= 8
    assert gd_loss(student, teacher) > 0


@few
@given(seed=SEEDS, width=st.sampled_from([2, 64]))
def test_feature_distillation_is_the_angle_whatever_the_width(seed, width):
    x = drawn(seed, width, width)
    angles = [
        oracle.unit(np.array(x[f"student_{m}"], np.float64))
        * oracle.unit(np.array(x[f"teacher_{m}"], np.float64))
        for m in ("image", "text")
    ]
    expected = sum(2 * (1 - angle.sum(axis=1)).mean() for angle in angles)
    summed, mean = (float(fd_loss(*pair_of(x), reduction=r)) for r in ("sum", "mean"))
    assert summed == pytest.approx(expected, rel=1e-5)
    assert width * mean == pytest.approx(expected, rel=1e-5)


def test_a_masked_image_is_compared_and_not_the_whole_one():
    """The released code overwrites it, and so has feature distillation twice."""
    x = drawn(9)
    student, teacher = pair_of(x)
    masked = mfd_loss(student, teacher)
    assert masked != fd_loss(student, teacher)
    alike = replace(student, image=student.masked_image)
    assert masked == fd_loss(alike, teacher)


def test_a_number_takes_the_place_of_the_teachers_scale():
    x = drawn(1)
    student, teacher = pair_of(x)
    own = answers.embeddings(x | {"teacher_scale": jnp.float32(10)}, "teacher")
    given_number = crd_loss(student, teacher, teacher_scale=10.0).value()
    assert given_number == crd_loss(student, own).value()
    assert given_number != crd_loss(student, teacher).value()


def test_a_calibrated_scale_is_used_unless_the_own_is_asked_for():
    student, teacher = pair_of(drawn(1))
    calibrated = replace(teacher, calibrated_scale=jnp.float32(3))
    three = crd_loss(student, teacher, teacher_scale=3.0).value()
    assert crd_loss(student, calibrated).value() == three
    own = crd_loss(student, calibrated, teacher_scale="own").value()
    assert own == crd_loss(student, teacher).value()
    assert own != crd_loss(student, calibrated).value()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_any_learnt_scale_gives_numbers(scale):
    pair = pair_of(drawn(3))
    found = jax.value_and_grad(lambda c: icl_loss(*pair, scale=c).value())(
        jnp.float32(scale)
    )
    assert all(np.isfinite(found))


def test_gradient_distillation_compares_the_gradients_of_the_task_loss():
    """Of normalised embeddings, by automatic differentiation here."""
    sides = pair_of(drawn(6))

    def gradients(side):
        def anchored(image, text, transposed):
            logits = side.logit_scale * image @ text.T
            logits = logits.T if transposed else logits
            return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))

        rows = normalize(side.image), normalize(side.text)
        return [
            gradient
            for transposed in (False, True)
            for gradient in jax.grad(anchored, argnums=(0, 1))(*rows, transposed)
        ]

    pairs = zip(*map(gradients, sides), strict=True)
    expected = sum(float(jnp.mean((ours - theirs) ** 2)) for ours, theirs in pairs)
    found = float(gd_loss(*sides, form="paper"))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_released_gradients_shrink_as_the_scale_grows_which_they_should_not():
    """It divides by the scale where one multiplies, hence its weight of 1e8."""
    student, teacher = pair_of(drawn(7))

    def at(scale, form):
        sides = (replace(s, logit_scale=jnp.float32(scale)) for s in (student, teacher))
        return float(gd_loss(*sides, form=form))

    for form, larger in (("paper", True), ("released", False)):
        assert (at(30, form) > at(3, form)) == larger
    assert at(30, "paper") > 1e5 * at(30, "released")


def test_our_gradient_distillation_depends_on_neither_width_nor_length():
    """Twice the width, half of it empty, changes nothing; the others halve by it."""
    student, teacher = pair_of(drawn(8))

    def widened(side, factor):
        rows = (jnp.pad(x, ((0, 0), (0, 4))) for x in (side.image, side.text))
        image, text = (factor * x for x in rows)
        return Embeddings(image=image, text=text, logit_scale=side.logit_scale)

    expected = float(gd_loss(student, teacher))
    wide = widened(student, 3.0), widened(teacher, 0.2)
    assert float(gd_loss(*wide)) == pytest.approx(expected, rel=1e-5)
    for form in ("paper", "released"):
        half = float(gd_loss(student, teacher, form=form)) / 2
        assert float(gd_loss(*wide, form=form)) == pytest.approx(half, rel=1e-5)


def test_no_array_of_gradient_distillation_has_a_batch_squared_times_a_width():
    batch, width = 16, 8
    one = Embeddings(
        image=jnp.ones((batch, width)),
        text=jnp.ones((batch, width)),
        logit_scale=jnp.float32(9),
    )
    graph = jax.make_jaxpr(jax.grad(partial(gd_loss, form="released")))(one, one)
    assert max(v.aval.size for v in variables(graph.jaxpr)) <= batch * batch


def variables(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jaxprs_in_params(equation.params):
            yield from variables(inner)


def test_duplicates_leave_contrast_at_chance():
    x = drawn(2)
    same = {
        k: jnp.repeat(v[:1], 5, axis=0)
        if k.startswith(("student", "teacher")) and v.ndim
        else v
        for k, v in x.items()
    }
    chance = pytest.approx(np.log(5), rel=1e-6)
    values, _ = answers.answers({"clip": {}, "crd": {}, "icl": {}, "afd": {}}, same)
    assert values["clip"] == values["icl"] == values["afd"] == chance
    assert values["crd"] == pytest.approx(0, abs=1e-6)


def test_a_batch_of_one_has_nothing_to_contrast():
    x = drawn(4)
    one = {
        k: v[:1] if k.startswith(("student", "teacher")) and v.ndim else v
        for k, v in x.items()
    }
    values, _ = answers.answers(RELEASED, one)
    for name in ("clip", "crd", "icl", "cross_kd", "gd", "afd"):
        assert values[name] == 0, name
    assert values["fd"] > 0

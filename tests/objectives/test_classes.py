"""Objectives of classes against an oracle, their identities and their edges."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import answers, oracle, oracle_classes

from kdjax.embeddings import Embeddings
from kdjax.objectives import build_objective
from kdjax.objectives.classes import bce_loss, dkd_loss, hinton_loss

FORMS = {
    "bce": ("bce", {}, oracle_classes.bce),
    "hinton": ("hinton", {}, oracle_classes.hinton),
    "hinton warm": (
        "hinton",
        {"temperature": 1.5},
        partial(oracle_classes.hinton, temperature=1.5),
    ),
    "hinton of sigmoids": (
        "hinton",
        {"form": "sigmoid"},
        oracle_classes.hinton_sigmoid,
    ),
    "dkd": ("dkd", {}, oracle_classes.dkd),
    "dkd of CIFAR": (
        "dkd",
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        partial(oracle_classes.dkd, beta=8.0, temperature=4.0),
    ),
}
LOSSES = {
    "bce": lambda student, teacher: bce_loss(student),
    "hinton": hinton_loss,
    "hinton of sigmoids": partial(hinton_loss, form="sigmoid"),
    "dkd": dkd_loss,
}
every = pytest.mark.parametrize("loss", LOSSES)


@cache
def inputs(classes=4):
    return oracle_classes.inputs(np.random.default_rng(7), 5, classes)


def no_pairs(x):
    """The same with what a classifier has of pairs: nothing."""
    nothing = {
        f"{side}_{modality}": np.zeros((len(x["student_class_logits"]), 0))
        for side in ("student", "teacher")
        for modality in ("image", "text")
    }
    scales = {f"{side}_scale": np.array(1.0) for side in ("student", "teacher")}
    return x | nothing | scales


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_the_oracle(form, classes):
    name, options, loss = FORMS[form]
    x = no_pairs(inputs(classes))
    values, gradients = answers.answers({name: options}, x)
    assert values[name] == pytest.approx(loss(x), rel=1e-5)
    answers.check_with_oracle(gradients[name], loss, oracle.gradient, x)


def both(x=None, **changes):
    """The two sides of arrays by the oracle's names."""
    x = answers.as_float32((inputs() if x is None else x) | changes)
    student = Embeddings.of_classes(
        *(x[f"student_class_{part}"] for part in ("logits", "targets", "weights"))
    )
    return student, Embeddings.of_classes(x["teacher_class_logits"])


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 6))
def test_the_two_parts_of_dkd_make_up_the_whole_divergence(seed, classes):
    """KL = TCKD + (1 - p) NCKD, where the teacher gives the target p."""
    x = oracle_classes.inputs(np.random.default_rng(seed), 1, classes)
    student, teacher = both(x)
    p = jax.nn.softmax(teacher.class_logits)[0, x["student_class_targets"].argmax()]
    whole = float(hinton_loss(student, teacher, temperature=1.0))
    of_target = float(dkd_loss(student, teacher, alpha=1.0, beta=0.0))
    of_others = float(dkd_loss(student, teacher, alpha=0.0, beta=1.0))
    parts = of_target + float(1 - p) * of_others
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_teacher_beside_the_labels_is_a_mixture_of_targets(share):
    """Binary cross-entropy is linear in its targets; the teacher's entropy is fixed."""
    student, teacher = both()
    p = jax.nn.sigmoid(teacher.class_logits)
    mixed = (1 - share) * student.class_targets + share * p

    def apart(logits):
        said = Embeddings.of_classes(
            logits, student.class_targets, student.class_weights
        )
        learnt = hinton_loss(said, teacher, temperature=1.0, form="sigmoid")
        return (1 - share) * bce_loss(said) + share * learnt

    def together(logits):
        return bce_loss(Embeddings.of_classes(logits, mixed, student.class_weights))

    found, expected = (jax.grad(f)(student.class_logits) for f in (apart, together))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@every
def test_a_row_of_weight_zero_is_as_if_it_were_not_there(loss):
    x = inputs()
    weights = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    found = LOSSES[loss](*both(student_class_weights=weights))
    kept = {name: array[weights > 0] for name, array in x.items()}
    expected = LOSSES[loss](*both(kept, student_class_weights=np.ones(3)))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    nothing = LOSSES[loss](*both(student_class_weights=np.zeros(5)))
    assert float(nothing) == 0


@every
def test_without_weights_all_rows_count_alike(loss):
    student, teacher = both(student_class_weights=np.ones(5))
    alike = Embeddings.of_classes(student.class_logits, student.class_targets)
    expected = LOSSES[loss](student, teacher)
    assert float(LOSSES[loss](alike, teacher)) == pytest.approx(float(expected))


def test_a_row_without_a_target_is_as_if_it_were_not_there_for_dkd():
    """Such as a question to which the annotators said nothing that is a class."""
    kept = {name: np.delete(array, 3, axis=0) for name, array in inputs().items()}
    targets = inputs()["student_class_targets"] * (np.arange(5) != 3)[:, None]
    found = float(dkd_loss(*both(student_class_targets=targets)))
    expected = float(dkd_loss(*both(kept)))
    assert found == pytest.approx(expected, rel=1e-6)
    nothing = both(student_class_targets=np.zeros((5, 4)))
    assert float(dkd_loss(*nothing)) == 0


@every
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e4])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_even_and_saturated_logits_give_numbers(loss, scale, classes):
    x = oracle_classes.inputs(np.random.default_rng(1), 5, classes)
    x |= {name: scale * x[name] - scale for name in x if name.endswith("logits")}
    student, teacher = both(x)

    def value(logits):
        said = Embeddings.of_classes(
            logits, student.class_targets, student.class_weights
        )
        return LOSSES[loss](said, teacher)

    found, gradient = jax.value_and_grad(value)(student.class_logits)
    assert np.isfinite(found)
    assert np.isfinite(gradient).all()


def test_a_class_alone_has_nothing_to_teach():
    x = oracle_classes.inputs(np.random.default_rng(1), 5, 1)
    assert float(dkd_loss(*both(x))) == 0
    assert float(hinton_loss(*both(x))) == 0


def test_a_sure_teacher_loses_no_precision():
    """Its 1 - p is not zero, and a student that is surer is still told."""
    row = jnp.array([[0.0, 0.0]])
    target = jnp.array([[1.0, 0.0]])
    student = Embeddings.of_classes(row.at[0, 0].set(60.0), target)
    teacher = Embeddings.of_classes(row.at[0, 0].set(20.0))
    expected = 40 * np.exp(-20) - np.exp(-20)
    found = float(dkd_loss(student, teacher))
    assert found == pytest.approx(expected, rel=1e-3)


def test_binary_cross_entropy_is_summed_over_classes_and_averaged_over_rows():
    """At even odds each class costs ln 2, whatever its target."""
    student, _ = both(student_class_logits=np.zeros((5, 4)))
    assert float(bce_loss(student)) == pytest.approx(4 * np.log(2), rel=1e-6)


def test_temperatures_may_be_scheduled():
    x = answers.as_float32(no_pairs(inputs()))
    sides = [answers.embeddings(x, side) for side in ("student", "teacher")]
    moving = {"temperature": {"start": 2.0, "end": 6.0}}

    def terms(options, progress):
        spec = {name: options for name in ("hinton", "dkd")}
        built = build_objective(
            spec, student_width=0, teacher_width=0, rngs=nnx.Rngs(0)
        )
        return {name: float(x) for name, x in built(*sides, progress)[1].items()}

    expected = terms({"temperature": 3.0}, 0.0)
    assert terms(moving, 0.25) == pytest.approx(expected, rel=1e-6)

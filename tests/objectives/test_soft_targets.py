"""Soft cross-entropies against OpenCLIP's and TinyCLIP's, and against an oracle."""

from functools import cache, partial

import numpy as np
import pytest
from objectives import answers, oracle

from kdjax.objectives import expand
from kdjax.objectives.clip_kd import crd_loss
from kdjax.objectives.soft_targets import affinity_loss, open_clip_distill_loss

PINNED = {"student_scale": 50.0, "teacher_scale": 50.0}
GOLDEN = {
    "open_clip_distill": ("open_clip_distill", {}),
    "affinity": ("affinity", {}),
    "affinity_at_50": ("affinity", PINNED),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_values_and_gradients_are_those_of_the_original(case):
    golden = answers.golden("contrastive_losses.npz")
    name, options = GOLDEN[case]
    x = answers.inputs_of(golden)
    values, gradients = answers.answers({name: options}, x)
    assert values[name] == pytest.approx(golden[f"{case}/value"], rel=1e-5)
    answers.check_gradients(gradients[name], golden, case)


ORACLES = {
    "open_clip_distill": ({}, oracle.open_clip_distill),
    "affinity": ({}, oracle.open_clip_distill),
    "affinity of images": (
        {"image_image": 0.5},
        partial(oracle.affinity_within, images=0.5, texts=0.0),
    ),
    "affinity of texts": (
        {"text_text": 2},
        partial(oracle.affinity_within, images=0.0, texts=2.0),
    ),
}


@cache
def inputs():
    return oracle.inputs(np.random.default_rng(3), 5, 3, 6)


@pytest.mark.parametrize("case", ORACLES)
def test_values_and_gradients_are_those_of_the_oracle(case):
    options, loss = ORACLES[case]
    name = case.split()[0]
    values, gradients = answers.answers({name: options}, inputs())
    assert values[name] == pytest.approx(loss(inputs()), rel=1e-5)
    answers.check_with_oracle(gradients[name], loss, oracle.gradient, inputs())


def test_it_has_the_gradient_of_a_divergence_and_the_entropy_more_in_value():
    x = inputs()
    names = ("crd", "open_clip_distill")
    values, gradients = answers.answers({name: {} for name in names}, x)
    itself = x | {k.replace("teacher", "student"): x[k] for k in x if "teacher" in k}
    entropy = oracle.open_clip_distill(itself)
    crd, distill = (values[name] for name in names)
    assert distill - crd == pytest.approx(entropy, rel=1e-5)
    for leaf, gradient in gradients["crd"].items():
        np.testing.assert_allclose(
            gradients["open_clip_distill"][leaf], gradient, atol=1e-6
        )


def test_a_sigmoid_models_bias_drops_out_of_a_row():
    x = answers.as_float32(inputs())
    biased = x | {"student_bias": x["learnt_bias"], "teacher_bias": x["learnt_bias"]}
    for loss in (crd_loss, open_clip_distill_loss, affinity_loss):
        plain, shifted = (
            loss(
                *(answers.embeddings(y, side) for side in ("student", "teacher"))
            ).value()
            for y in (x, biased)
        )
        assert plain == shifted


def test_pinned_scales_are_not_learnt_and_not_calibrated():
    """The preset is TinyCLIP's: the affinities alone, at 50."""
    assert expand("tiny_clip") == {
        "affinity": {"weight": 1.0, **PINNED, "image_image": 0.0, "text_text": 0.0}
    }
    values, gradients = answers.answers({"affinity": PINNED}, inputs())
    assert gradients["affinity"]["student_scale"] == 0
    fifty = inputs() | {name: np.array(50.0) for name in PINNED}
    assert values["affinity"] == answers.answers({"affinity": {}}, fifty)[0]["affinity"]

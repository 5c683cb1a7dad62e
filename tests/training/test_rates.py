"""What patterns stand for, and how layers of towers are slowed."""

from dataclasses import replace

import numpy as np
import pytest
from flax import nnx, traverse_util

from kdjax.errors import UserError
from kdjax.models import VQAConfig, architecture
from kdjax.training.rates import check_rates, moves, rate_factors
from kdjax.training.tasks import ContrastiveTask, VQATask

NANO = architecture("nano-16")
CLIP = replace(
    NANO,
    vision=replace(NANO.vision, layers=3),
    text=replace(NANO.text, layers=2),
)
TASKS = {
    "clip": ContrastiveTask(
        CLIP,
        (replace(CLIP, embed_dim=8),),
        (("fd", (("reduction", "sum"), ("weight", 1.0))),),
    ),
    "vqa": VQATask(
        VQAConfig(
            vision=CLIP.vision,
            vocab_size=20,
            question_length=6,
            question_layers=2,
            width=16,
            layers=2,
            num_heads=2,
            num_answers=5,
        ),
        (("bce", (("weight", 1.0),)),),
    ),
}


def shapes_of(task):
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))))


@pytest.fixture(scope="module")
def clip():
    return shapes_of(TASKS["clip"])


@pytest.fixture(scope="module")
def vqa():
    return shapes_of(TASKS["vqa"])


def by_name(tree):
    """By paths like those of a pattern, written down once more."""
    found = {}
    for path, x in traverse_util.flatten_dict(tree).items():
        inside = path[1:] if path[0] == "model" else path
        found["/".join(map(str, inside))] = x
    return found


@pytest.mark.parametrize(
    ("pattern", "stopped"),
    [
        ("vision", lambda name: name.startswith("vision/")),
        ("text", lambda name: name.startswith(("text/", "text_projection/"))),
        ("text/", lambda name: name.startswith("text/")),
        ("logit_scale", lambda name: name == "logit_scale"),
        ("*/bias", lambda name: name.endswith("/bias")),
        ("objective/*/text", lambda name: "projection/text" in name),
        (
            "vision/*/query",
            lambda name: name.startswith("vision/") and "/query/" in name,
        ),
        ("[vt]*projection", lambda name: "projection" in name and name[0] in "vt"),
        ("*", lambda name: True),
    ],
)
def test_a_pattern_stands_for_what_begins_so(clip, pattern, stopped):
    """The objective's own head for texts is not the text tower's."""
    check_rates(clip, ((pattern, 0.0),))
    found = by_name(moves(clip, ((pattern, 0.0),)))
    assert found == {name: not stopped(name) for name in found}
    assert not all(found.values())


def test_factors_of_all_patterns_that_match_are_multiplied(clip):
    rates = (("*", 0.5), ("vision", 0.3), ("vision/post_norm", 4.0))
    for turned in (rates, rates[::-1]):
        found = by_name(rate_factors(clip, turned, 1.0))
        assert found["vision/post_norm/bias"] == pytest.approx(0.6)
        assert found["vision/class_embedding"] == pytest.approx(0.15)
        assert found["logit_scale"] == 0.5
    assert all((x == 1).all() for x in by_name(rate_factors(clip, (), 1.0)).values())


# By hand: of 3 layers of the image tower and 2 of the text tower, each at a tenth.
TENTHS = {
    "vision/class_embedding": 1e-4,
    "vision/patch_embedding": 1e-4,
    "vision/position_embedding": 1e-4,
    "vision/pre_norm": 1e-4,
    "vision/transformer/blocks": [1e-3, 1e-2, 1e-1],
    "vision/post_norm": 1,
    "visual_projection": 1,
    "text/token_embedding": 1e-3,
    "text/position_embedding": 1e-3,
    "text/transformer/blocks": [1e-2, 1e-1],
    "text/final_norm": 1,
    "text_projection": 1,
    "logit_scale": 1,
    "objective": 1,
    # What answers questions begins anew, all of it.
    "question_encoder": 1,
    "fusion": 1,
    "image_": 1,
    "head": 1,
}


def test_layers_are_slowed_from_the_top_of_each_tower(clip, vqa):
    seen = set()
    for params in (clip, vqa):
        shapes = by_name(params)
        for name, factor in by_name(rate_factors(params, (), 0.1)).items():
            (part,) = (part for part in TENTHS if name.startswith(part))
            seen.add(part)
            expected = np.asarray(TENTHS[part])
            if expected.ndim:
                dimensions = len(shapes[name].shape)
                expected = expected.reshape(-1, *(1,) * (dimensions - 1))
            np.testing.assert_allclose(factor, expected, rtol=1e-6, err_msg=name)
    assert seen == set(TENTHS)


def test_the_pooling_of_a_tower_is_above_its_layers():
    vision = replace(CLIP.vision, pooling="attention", class_token=False)
    task = replace(TASKS["clip"], student=replace(CLIP, vision=vision))
    factors = by_name(rate_factors(shapes_of(task), (), 0.1))
    assert factors["vision/pool/query"] == 1
    assert factors["vision/pool/attention/key/kernel"] == 1


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("visoin", "nearest are vision"),
        ("model/vision", "nearest are vision"),
        ("vision/post_norms", "nearest are vision/post_norm, "),
        (
            "qqqqqqq",
            "nearest are logit_scale, objective, text, text_projection, vision",
        ),
    ],
)
def test_a_pattern_of_nothing_is_refused(clip, pattern, near):
    with pytest.raises(UserError, match=f"optimizer.rates has '{pattern}'.*{near}"):
        check_rates(clip, (("text", 1.0), (pattern, 0.0)))


def test_what_a_task_does_not_have_cannot_be_slowed(vqa):
    check_rates(vqa, (("vision", 0.0),))
    with pytest.raises(UserError, match="'text', and no parameter's path begins so"):
        check_rates(vqa, (("text", 0.0),))

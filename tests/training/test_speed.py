"""Seconds become what people compare."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from kdjax.models import VQAConfig, architecture
from kdjax.models.flops import (
    answering_flops,
    caption_flops,
    image_flops,
    vision_flops,
)
from kdjax.training.flops import step_flops
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.speed import Speed
from kdjax.training.tasks import ContrastiveTask, VQATask

OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3, weight_decay=0.1, warmup=0.1, b2=0.98, clip_norm=1.0
)
SMALL, LARGE = architecture("tiny-16"), architecture("small-8")
B, L = 8, 16


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.int32)


def pairs(**objectives):
    named = tuple((k, (("weight", w),)) for k, w in objectives.items())
    return ContrastiveTask(SMALL, (LARGE,), named)


BATCH = {
    "image": shape(B, 64, 64, 3),
    "text": {"student": shape(B, L), "teacher_0": shape(B, 10)},
}
STUDENT = image_flops(SMALL) + caption_flops(SMALL, L)
TEACHER = image_flops(LARGE) + caption_flops(LARGE, 10)


def test_a_student_counts_three_times_and_its_teacher_once():
    task = pairs(clip=1.0, fd=1.0)
    assert step_flops(task, OPTIMIZER, BATCH) == B * (3 * STUDENT + TEACHER)
    held = {**BATCH, "teacher": ()}
    assert step_flops(task, OPTIMIZER, held) == B * 3 * STUDENT
    frozen = replace(OPTIMIZER, rates=(("text", 0.0),))
    expected = B * (3 * image_flops(SMALL) + caption_flops(SMALL, L))
    assert step_flops(task, frozen, held) == expected


def test_masked_images_are_seen_once_more():
    kept = SMALL.vision.num_patches // 4
    found = step_flops(pairs(clip=1.0, mfd=1.0), OPTIMIZER, {**BATCH, "teacher": ()})
    assert found == B * 3 * (STUDENT + image_flops(SMALL, kept))


def test_tokens_that_a_batch_carries_are_not_computed():
    model = VQAConfig(
        vision=SMALL.vision, vocab_size=50, question_length=L, question_layers=1,
        width=32, layers=2, num_heads=2, num_answers=13,
    )  # fmt: skip
    task = VQATask(model, (("bce", ()), ("hinton", ())), replace(model, width=64))
    batch = {"question": {"student": shape(B, 5, L)}}
    tower, answers = vision_flops(model.vision), answering_flops(model, 5)
    teacher = answering_flops(replace(model, width=64), 5)
    expected = B * (3 * (tower + answers) + tower + teacher)
    assert step_flops(task, OPTIMIZER, batch) == expected
    held = {**batch, "tokens": {"student": 0, "teacher": 0}}
    assert step_flops(task, OPTIMIZER, held) == B * (3 * answers + teacher)


def test_utilisation_is_of_the_time_that_goes_into_training():
    seconds = {"data": 0.1, "step": 0.4, "checkpoint": 3.0, "evaluation": 5.0}
    found = Speed(rows=100, flops=30, peak=240.0).metrics(seconds)
    assert found == pytest.approx(
        {
            "time/data": 0.1,
            "time/step": 0.4,
            "time/checkpoint": 3.0,
            "time/evaluation": 5.0,
            "speed/samples_per_second": 200,
            "speed/flops_per_second": 60,
            "speed/utilisation": 0.25,
        }
    )
    assert "speed/flops_per_second" not in Speed(1, None, 240.0).metrics(seconds)
    assert "speed/utilisation" not in Speed(1, 30, None).metrics(seconds)

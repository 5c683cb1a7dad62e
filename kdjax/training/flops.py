"""Model FLOPs of a training step: what its models need, however they are computed.

A tower that learns counts three forward passes, one of them forward and two backward; a
tower that does not, and a teacher that the step computes, counts one. What a batch
carries is not computed. What is computed again on the way back (a microbatch,
rematerialisation), and the losses, are not counted.
"""

import functools
from collections.abc import Mapping

import jax
from flax import nnx

from kdjax.models import CLIP, TOWERS, Params, VQAModel, abstract_of
from kdjax.models.flops import (
    answering_flops,
    caption_flops,
    image_flops,
    vision_flops,
)
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.rates import Rates, moves
from kdjax.training.tasks import Batch, ContrastiveTask, Task, VQATask, num_kept

FORWARD_AND_BACKWARD = 3


def step_flops(task: Task, optimizer: OptimizerConfig, batch: Batch) -> int | None:
    """Return the model FLOPs of a step, or None of a task whose models are not known.

    Args:
        task: what is trained.
        optimizer: says which towers learn.
        batch: of the step, or its shapes; the global one.
    """
    parts = forward_flops(task, batch)
    if not parts:
        return None
    learning = {"answers", *learning_towers(model_shapes(task), optimizer.rates)}
    return sum(
        flops * (FORWARD_AND_BACKWARD if part in learning else 1)
        for part, flops in parts.items()
    )


def model_shapes(task: Task) -> Params:
    """Return the shapes of the parameters of the model that a task trains."""
    if isinstance(task, ContrastiveTask):
        return nnx.to_pure_dict(abstract_of(CLIP, task.student))
    if isinstance(task, VQATask):
        return nnx.to_pure_dict(abstract_of(VQAModel, task.model))
    return {}


def learning_towers(params: Params, rates: Rates) -> set[str]:
    """Return which towers have a parameter that is trained."""
    moving = moves(params, rates)
    return {tower for tower in TOWERS if any(jax.tree.leaves(moving.get(tower, ())))}


@functools.singledispatch
def forward_flops(task: Task, batch: Batch) -> Mapping[str, int]:
    """Return the operations of one forward pass of each part, for a whole batch."""
    return {}


@forward_flops.register
def _(task: ContrastiveTask, batch: Batch) -> Mapping[str, int]:
    rows, length = batch["text"]["student"].shape
    vision = image_flops(task.student)
    if "masked_image" in dict(task.objective_shapes().wanted()):
        vision += image_flops(task.student, num_kept(task.student.vision.num_patches))
    teachers = 0
    if "teacher" not in batch:
        for place, teacher in enumerate(task.teachers):
            read = batch["text"][f"teacher_{place}"].shape[1]
            teachers += image_flops(teacher) + caption_flops(teacher, read)
    text = caption_flops(task.student, length)
    return {"vision": rows * vision, "text": rows * text, "teachers": rows * teachers}


@forward_flops.register
def _(task: VQATask, batch: Batch) -> Mapping[str, int]:
    rows, questions, _ = batch["question"]["student"].shape
    carried = batch.get("tokens", {})
    vision = 0 if "student" in carried else vision_flops(task.model.vision)
    teacher = 0
    if task.teacher is not None:
        teacher = answering_flops(task.teacher, questions)
        teacher += 0 if "teacher" in carried else vision_flops(task.teacher.vision)
    answers = answering_flops(task.model, questions)
    return {
        "vision": rows * vision,
        "answers": rows * answers,
        "teachers": rows * teacher,
    }

"""`kdjax pretrain` and `kdjax distill`: a CLIP model learns from captions."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdjax.commands.common import (
    fit,
    put_into,
    score_zero_shot,
    source_of,
    this_host,
    tokenizer_of,
)
from kdjax.commands.models import (
    NamedModel,
    compute_dtype,
    fit_vocabulary,
    open_model,
    save_model,
)
from kdjax.commands.reporter import Reporter
from kdjax.commands.workdir import Workdir
from kdjax.config import to_plain
from kdjax.data.loader import contrastive_batches, contrastive_evaluation_batches
from kdjax.data.records import Source
from kdjax.errors import UserError
from kdjax.evaluation.zero_shot import embed_images, embed_texts
from kdjax.objectives import expand, match_entropy
from kdjax.training.tasks import ContrastiveTask, Params

CALIBRATION_ROWS = 64


def pretrain(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Train the CLIP model that `config.model` names, contrastively."""
    return _run(config, workdir, reporter, config.model, None)


def distill(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Distil `config.teacher` into `config.student`."""
    return _run(config, workdir, reporter, config.student, config.teacher)


def _run(
    config: ConfigDict,
    workdir: Workdir,
    reporter: Reporter,
    student_name: str,
    teacher_name: str | None,
) -> dict[str, Any]:
    dtype = compute_dtype(config.dtype)
    source = source_of(config, "train")
    student = open_model(student_name, workdir.path, dtype)
    teacher = open_model(teacher_name, workdir.path, dtype) if teacher_name else None
    tokenizer = student.tokenizer or tokenizer_of(config.tokenizer, source)
    student_config = fit_vocabulary(student, tokenizer)
    tokenizers = {"student": (tokenizer, student_config.text.context_length)}
    frozen = None
    if teacher is not None:
        if teacher.tokenizer is None or teacher.params is None:
            raise UserError(
                f"the teacher {teacher_name!r} has no weights: name a "
                "run, a directory or a hub name"
            )
        length = teacher.config.text.context_length
        tokenizers["teacher"] = (teacher.tokenizer, length)
        frozen = calibrate(teacher, config, source_of(config, "validation"))
    objectives = expand(to_plain(config.objectives))
    task = ContrastiveTask(
        student_config,
        teacher.config if teacher else None,
        tuple((k, tuple(sorted(v.items()))) for k, v in sorted(objectives.items())),
    )
    host = this_host()
    batches = contrastive_batches(
        source,
        tokenizers,
        batch_size=config.batch_size,
        seed=config.seed,
        host_index=host.index,
        host_count=host.count,
    )

    def warm_start(params: Params) -> Params:
        given = student.params
        return params if given is None else put_into(params, {"model": given})

    state, seconds = fit(
        config,
        workdir,
        task,
        iter(batches),
        reporter,
        "distil" if teacher else "pretrain",
        frozen,
        warm_start,
    )
    params = state.params["model"]
    save_model(student_config, params, tokenizer, workdir.path)
    test = source_of(config, config.eval.split)
    accuracy = score_zero_shot(params, student_config, tokenizer, test)
    return {"zero_shot_accuracy": accuracy, "seconds": seconds}


def calibrate(teacher: NamedModel, config: ConfigDict, held_out: Source) -> Params:
    """Return the teacher's parameters with the logit scale that the config asks for.

    `teacher_scale` is "own", a number, or "match_entropy": the scale at which the rows
    of the teacher's softmax over held-out pairs have a mean entropy of
    `teacher_entropy` nats, so that sharp and soft teachers say equally much.
    """
    params: Params = dict(teacher.params or {})
    wanted = config.teacher_scale
    if wanted == "own":
        return params
    if wanted == "match_entropy":
        scale = match_entropy(*_held_out(teacher, held_out), config.teacher_entropy)
    elif isinstance(wanted, int | float) and wanted > 0:
        scale = float(wanted)
    else:
        raise UserError(
            f"teacher_scale is {wanted!r}; give own, match_entropy or a number above 0"
        )
    return {**params, "logit_scale": jnp.float32(math.log(scale))}


def _held_out(teacher: NamedModel, source: Source) -> tuple[Any, Any]:
    """Return normalised embeddings of held-out images and their first captions."""
    batches = contrastive_evaluation_batches(source, batch_size=CALIBRATION_ROWS)
    batch = next(iter(batches))
    captions = [source[int(i)].captions[0] for i in batch["index"]]
    length = teacher.config.text.context_length
    assert teacher.tokenizer is not None
    ids = jnp.asarray(teacher.tokenizer.encode(captions, length))
    image = embed_images(
        teacher.params, jnp.asarray(batch["image"]), config=teacher.config
    )
    text = embed_texts(teacher.params, ids, config=teacher.config)
    return np.asarray(image), np.asarray(text)

"""`kdjax pretrain` and `kdjax distill`: a CLIP model learns from captions."""

from typing import Any

import jax.numpy as jnp
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
    compute_of,
    fit_vocabulary,
    format_of,
    open_model,
    save_model,
)
from kdjax.commands.reporter import Reporter
from kdjax.commands.start import start
from kdjax.commands.teacher import Teacher, calibrated_scale, hold_outputs
from kdjax.commands.workdir import Workdir
from kdjax.config import to_plain
from kdjax.data.loader import contrastive_batches
from kdjax.errors import UserError
from kdjax.models import CLIPConfig, Params
from kdjax.objectives import expand
from kdjax.parallel import make_mesh
from kdjax.training.tasks import ContrastiveTask


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
    compute = compute_of(config, reporter)
    source = source_of(config, "train")
    mesh = make_mesh(dict(config.mesh))
    student = open_model(student_name, workdir.path, compute, mesh)
    teacher, hold = None, False
    if teacher_name is not None:
        hold = config.teacher_outputs == "held"
        opened = open_model(teacher_name, workdir.path, compute, mesh)
        teacher = Teacher(teacher_name, opened)
        student = start(
            student, opened, by=config.inherit, text_tower=config.text_tower
        )
    tokenizer = student.tokenizer or tokenizer_of(config.tokenizer, source)
    student_config = fit_vocabulary(student, tokenizer)
    format_of(student_config)  # it is refused now rather than in the end
    length = config.caption_length
    check_caption_length(length, student_config)
    tokenizers = {"student": (tokenizer, length)}
    frozen, held, scale = None, None, None
    if teacher is not None:
        scale = calibrated_scale(teacher, config, source_of(config, "validation"))
        if hold:
            held = hold_outputs(teacher, source)
            scalars = ("logit_scale", "logit_bias")
            frozen = {k: teacher.params[k] for k in scalars if k in teacher.params}
        else:
            frozen = {**teacher.params}
            tokenizers["teacher"] = (teacher.tokenizer, teacher.context_length)
        if scale is not None:
            frozen["calibrated_scale"] = jnp.float32(scale)
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
        iter(batches.map(held) if held else batches),
        reporter,
        "distil" if teacher else "pretrain",
        frozen,
        warm_start,
    )
    params = state.params["model"]
    save_model(student_config, params, tokenizer, workdir.path)
    test = source_of(config, config.eval.split)
    accuracy = score_zero_shot(params, student_config, tokenizer, test)
    results = {"zero_shot_accuracy": accuracy, "seconds": seconds}
    return results if teacher is None else {**results, "calibrated_scale": scale}


def check_caption_length(length: int, student: CLIPConfig) -> None:
    """Check that a model reads captions of that length.

    Raises:
        UserError: it does not.
    """
    most = student.text.context_length
    if not 0 < length <= most:
        raise UserError(
            f"caption_length is {length}; the model reads 1 to {most} tokens"
        )

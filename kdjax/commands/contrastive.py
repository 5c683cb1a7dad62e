"""`kdjax pretrain` and `kdjax distill`: a CLIP model learns from captions."""

from typing import Any

from ml_collections import ConfigDict

from kdjax.commands.common import (
    fit,
    objectives_of,
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
from kdjax.commands.teacher import NO_TEACHER, Teacher, make_ready
from kdjax.commands.workdir import Workdir
from kdjax.data.loader import contrastive_batches
from kdjax.errors import UserError
from kdjax.models import CLIPConfig, Params
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
    compute, mesh = compute_of(config, reporter), make_mesh(dict(config.mesh))
    source = source_of(config, "train")
    student = open_model(student_name, workdir.path, compute, mesh)
    teacher = None
    if teacher_name is not None:
        opened = open_model(teacher_name, workdir.path, compute, mesh)
        teacher = Teacher(teacher_name, opened)
        student = start(
            student, teacher, by=config.inherit, text_tower=config.text_tower
        )
        del opened
    tokenizer = student.tokenizer or tokenizer_of(config.tokenizer, source)
    student_config = fit_vocabulary(student, tokenizer)
    format_of(student_config)  # it is refused now rather than in the end
    length = config.caption_length
    check_caption_length(length, student_config)
    taught = NO_TEACHER if teacher is None else make_ready(teacher, config)
    del teacher  # where its outputs are held nothing else is needed of it
    task = ContrastiveTask(student_config, taught.config, objectives_of(config))
    host = this_host()
    batches = contrastive_batches(
        source,
        {"student": (tokenizer, length), **taught.tokenizers},
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
        iter(batches.map(taught.put) if taught.put else batches),
        reporter,
        "pretrain" if teacher_name is None else "distil",
        taught.frozen,
        warm_start,
    )
    params = state.params["model"]
    save_model(student_config, params, tokenizer, workdir.path)
    test = source_of(config, config.eval.split)
    accuracy = score_zero_shot(params, student_config, tokenizer, test)
    results = {"zero_shot_accuracy": accuracy, "seconds": seconds}
    told = {} if teacher_name is None else {"calibrated_scale": taught.scale}
    return {**results, **told}


def check_caption_length(length: int, student: CLIPConfig) -> None:
    """Check that a model reads captions of that length.

    Raises:
        UserError: it does not.
    """
    most = student.text.context_length
    if student.text.pooling == "last" and length != most:
        raise UserError(
            f"caption_length is {length}; the model reads a text at the last of {most} "
            f"tokens, padding or not: give {most}"
        )
    if not 0 < length <= most:
        raise UserError(
            f"caption_length is {length}; the model reads 1 to {most} tokens"
        )

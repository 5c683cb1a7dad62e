"""`kdjax pretrain` and `kdjax distill`: a CLIP model learns from captions."""

from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdjax.commands.common import (
    Evaluation,
    fit,
    objectives_of,
    optimizer_of,
    own_rows,
    put_into,
    say_unsplit,
    source_of,
    tokenizer_of,
)
from kdjax.commands.compute import Compute, compute_of, compute_of_teacher
from kdjax.commands.models import (
    NamedModel,
    begin_model,
    fit_vocabulary,
    format_of,
    open_model,
    save_model,
    with_parts,
)
from kdjax.commands.names import TEACHER, teacher_names
from kdjax.commands.reporter import Reporter
from kdjax.commands.start import start
from kdjax.commands.statistics import estimate_statistics
from kdjax.commands.teacher import (
    Taught,
    Teacher,
    are_held,
    check_held,
    make_ready,
)
from kdjax.commands.workdir import Workdir
from kdjax.data.loader import contrastive_batches
from kdjax.data.records import Source
from kdjax.data.tokenizer import Tokenizer
from kdjax.errors import UserError
from kdjax.evaluation.subject import Subject
from kdjax.models import CLIP, CLIPConfig, Params, abstract_of
from kdjax.parallel import make_mesh, unsplit
from kdjax.training.steps import check_program
from kdjax.training.tasks import ContrastiveTask


def pretrain(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Train the CLIP model that `config.model` names, contrastively."""
    return _run(config, workdir, reporter, config.model, ())


def distill(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Distil `config.teacher`, one or several, into `config.student`."""
    names = teacher_names(config.teacher)
    return _run(config, workdir, reporter, config.student, names)


def _run(
    config: ConfigDict,
    workdir: Workdir,
    reporter: Reporter,
    student_name: str,
    named: tuple[str, ...],
) -> dict[str, Any]:
    compute, mesh = compute_of(config, reporter), make_mesh(dict(config.mesh))
    source = source_of(config, "train")
    student = open_model(student_name, workdir.path, compute, mesh, reporter.say)
    student = with_parts(student, config.parts)
    if named:
        student = _begun(config, workdir, student, named[0], compute, mesh)
    tokenizer = student.tokenizer or tokenizer_of(config.tokenizer, source)
    fitted = fit_vocabulary(student, tokenizer)
    format_of(fitted)  # it is refused now rather than in the end
    check_caption_length(config.caption_length, fitted)
    teachers = _teachers(config, workdir, named, compute, mesh, reporter)
    task = _task(config, fitted, teachers)
    taught, statistics = _heard(config, teachers, task, source)
    del teachers  # where their outputs are held nothing else is needed of them

    def warm_start(params: Params) -> Params:
        if student.params is not None:
            params = put_into(params, {"model": student.params})
        for of_teacher in statistics:
            params = put_into(params, {"objective": of_teacher})
        return params

    scored = source_of(config, config.eval.split)
    subject = Subject(config=fitted, tokenizer=tokenizer, source=scored)
    evaluation = Evaluation(config.eval.evaluators, subject)
    begin_model(fitted, tokenizer, workdir.path)
    trained = fit(
        config,
        workdir,
        task,
        _batches(config, source, tokenizer, taught),
        reporter,
        "distil" if named else "pretrain",
        evaluation,
        taught.frozen,
        warm_start,
    )
    state = trained.state
    save_model(fitted, state.evaluated["model"], tokenizer, workdir.path)
    results = evaluation.scores(state).results
    results = {**results, **trained.ends, "seconds": trained.seconds}
    if not named:
        return results
    scales = list(taught.scales)
    return {**results, "calibrated_scale": scales[0] if len(scales) == 1 else scales}


def _task(
    config: ConfigDict, student: CLIPConfig, teachers: Sequence[Teacher]
) -> ContrastiveTask:
    """Return what is trained, which can be."""
    task = ContrastiveTask(
        student,
        tuple(teacher.config for teacher in teachers),
        objectives_of(config),
        config.microbatch,
    )
    check_program(task, optimizer_of(config))
    return task


def _heard(
    config: ConfigDict,
    teachers: Sequence[Teacher],
    task: ContrastiveTask,
    source: Source,
) -> tuple[Taught, list[Params]]:
    """Return what a run needs of its teachers, and what objectives estimate of them."""
    objective = task.objective_shapes()
    wanted = [objective.wanted(place) for place in range(len(teachers))]
    if are_held(teachers, config):
        check_held(teachers, wanted, len(source))
    statistics = estimate_statistics(teachers, source, objective)
    return make_ready(teachers, config, wanted), statistics


def _batches(
    config: ConfigDict, source: Source, tokenizer: Tokenizer, taught: Taught
) -> Iterator[Any]:
    """Return the batches of this host, with what is held of teachers."""
    batches = contrastive_batches(
        source,
        {"student": (tokenizer, config.caption_length), **taught.tokenizers},
        batch_size=config.batch_size,
        seed=config.seed,
        rows=own_rows(config),
    )
    return iter(batches.map(taught.put) if taught.put else batches)


def _begun(
    config: ConfigDict,
    workdir: Workdir,
    student: NamedModel,
    teacher: str,
    compute: Compute,
    mesh: Mesh,
) -> NamedModel:
    """Return the student with what it takes of others, in the precision of its own."""
    if config.inherit == "none" and config.text_tower == "own":
        return student

    def whole(name: str) -> Teacher:
        return Teacher(name, open_model(name, workdir.path, compute, mesh))

    ancestor = config.inherit_from
    return start(
        student,
        whole(teacher),
        by=config.inherit,
        text_tower=config.text_tower,
        ancestor=None if ancestor == TEACHER else whole(ancestor),
    )


def _teachers(
    config: ConfigDict,
    workdir: Workdir,
    named: tuple[str, ...],
    compute: Compute,
    mesh: Mesh,
    reporter: Reporter,
) -> list[Teacher]:
    """Return the teachers, held as the config says of frozen ones."""
    if not named:
        return []
    frozen = compute_of_teacher(config, compute)
    teachers = []
    for name in named:
        model = open_model(name, workdir.path, frozen, mesh, reporter.say)
        teacher = Teacher(name, model)
        shapes = abstract_of(CLIP, teacher.config)
        say_unsplit(reporter, f"teacher {name}", unsplit(shapes, mesh, frozen.over))
        teachers.append(teacher)
    return teachers


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

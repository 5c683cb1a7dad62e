"""`kdjax vqa`: fine-tune a vision tower on questions, and score it officially."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from kdjax.commands.common import (
    Evaluation,
    fit,
    objectives_of,
    optimizer_of,
    own_rows,
    program_of,
    put_into,
    say_unsplit,
    source_of,
    tokenizer_of,
)
from kdjax.commands.compute import Compute, compute_of, compute_of_teacher
from kdjax.commands.models import open_model
from kdjax.commands.reporter import Reporter
from kdjax.commands.teacher import check_fits
from kdjax.commands.vqa_model import save_vqa_model
from kdjax.commands.vqa_teacher import TaughtAnswers, open_teacher
from kdjax.commands.workdir import Workdir
from kdjax.data.loader import Images, vqa_batches
from kdjax.data.records import Source
from kdjax.data.tokenizer import Tokenizer
from kdjax.evaluation.answering import bytes_of_tokens, image_tokens
from kdjax.evaluation.subject import Subject
from kdjax.models import CLIPConfig, Params, VQAConfig, VQAModel, abstract_of
from kdjax.models.config import to_dict
from kdjax.parallel import make_mesh, unsplit
from kdjax.training.rates import moves
from kdjax.training.steps import check_program
from kdjax.training.tasks import VQATask

Batch = dict[str, Any]


def _open_tower(
    config: ConfigDict, workdir: Workdir, compute: Compute, reporter: Reporter
) -> tuple[CLIPConfig, Params | None]:
    """Return the model that `config.tower` names, and its vision tower's weights."""
    mesh = make_mesh(dict(config.mesh))
    model = open_model(config.tower, workdir.path, compute, mesh, reporter.say)
    return model.config, None if model.params is None else model.params["vision"]


def _open_teacher(
    config: ConfigDict,
    workdir: Workdir,
    compute: Compute,
    answers: Sequence[str],
    reporter: Reporter,
) -> TaughtAnswers:
    """Return the teacher that `config.teacher` names, held as frozen ones are."""
    mesh, frozen = make_mesh(dict(config.mesh)), compute_of_teacher(config, compute)
    teacher = open_teacher(config.teacher, workdir.path, frozen, answers, mesh)
    if teacher.config is not None:
        shapes = abstract_of(VQAModel, teacher.config)
        say_unsplit(reporter, "teacher", unsplit(shapes, mesh, frozen.over))
    return teacher


def vqa(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> dict[str, Any]:
    """Train a VQA model on the tower that `config.tower` names, and score it.

    It learns from `config.teacher` too, if that names a run.
    """
    compute = compute_of(config, reporter)
    source = source_of(config, "train")
    tower_config, tower = _open_tower(config, workdir, compute, reporter)
    teacher = _open_teacher(config, workdir, compute, source.answers, reporter)
    tokenizer = tokenizer_of(config.tokenizer, source)
    model = _model(config, tower_config, tokenizer, len(source.answers), compute)
    task = VQATask(model, objectives_of(config), teacher.config, config.microbatch)
    check_program(task, optimizer_of(config))

    def warm_start(params: Params) -> Params:
        given = {} if tower is None else {"model": {"vision": tower}}
        return put_into(params, given)

    held = None
    if config.tower_outputs == "held":
        teacher, held = _hold(config, task, teacher, reporter, warm_start, source)
    about = {
        "questions_per_image": config.questions_per_image,
        "blank": config.data.get("blank", False),
    }
    subject = Subject(
        config=model,
        tokenizer=tokenizer,
        source=source_of(config, config.eval.split),
        answers=source.answers,
        **about,
    )
    evaluation = Evaluation(config.eval.evaluators, subject)
    trained = fit(
        config,
        workdir,
        task,
        _batches(config, source, tokenizer, teacher, held),
        reporter,
        "vqa",
        evaluation,
        teacher.params,
        warm_start,
    )
    saved = {"model": to_dict(model), "answers": list(source.answers), **about}
    state = trained.state
    save_vqa_model(saved, state.evaluated["model"], tokenizer, workdir.path)
    scores = evaluation.scores(state)
    workdir.write_json(
        "predictions.json",
        [{"question_id": k, "answer": said} for k, said in scores.predictions.items()],
    )
    return {**scores.results, **trained.ends, "seconds": trained.seconds}


def _model(
    config: ConfigDict,
    tower: CLIPConfig,
    tokenizer: Tokenizer,
    num_answers: int,
    compute: Compute,
) -> VQAConfig:
    return VQAConfig(
        vision=tower.vision,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        question_length=config.question_length,
        num_answers=num_answers,
        attention=compute.attention,
        dtype=compute.dtype,
        param_dtype=compute.param_dtype,
        **config.head,
    )


def _batches(
    config: ConfigDict,
    source: Source,
    tokenizer: Tokenizer,
    teacher: TaughtAnswers,
    held: Callable[[Batch], Batch] | None,
) -> Iterator[Any]:
    """Return the batches of this host, with what is held of frozen towers."""
    batches = vqa_batches(
        source,
        {"student": (tokenizer, config.question_length), **teacher.tokenizers},
        source.answers,
        batch_size=config.batch_size,
        questions_per_image=config.questions_per_image,
        seed=config.seed,
        rows=own_rows(config),
        blank=config.data.get("blank", False),
    )
    return iter(batches.map(held) if held else batches)


def _hold(
    config: ConfigDict,
    task: VQATask,
    teacher: TaughtAnswers,
    reporter: Reporter,
    warm_start: Callable[[Params], Params],
    source: Source,
) -> tuple[TaughtAnswers, Callable[[Batch], Batch] | None]:
    """Return the teacher without its tower, and what puts tokens into a batch."""
    towers, rest = teacher.towers, teacher.without_tower()
    student = _frozen_tower(config, task, rest, reporter, warm_start)
    blank = config.data.get("blank", False)
    return rest, _hold_tokens({**student, **towers}, source, blank)


def _frozen_tower(
    config: ConfigDict,
    task: VQATask,
    teacher: TaughtAnswers,
    reporter: Reporter,
    warm_start: Callable[[Params], Params],
) -> dict[str, tuple[Params, VQAConfig]]:
    """Return the student's tower by its name; none, and say so, where it learns."""
    shapes = nnx.to_pure_dict(abstract_of(VQAModel, task.model))
    learns = moves(shapes, optimizer_of(config).rates)["vision"]
    if any(jax.tree.leaves(learns)):
        reporter.say(
            "tower_outputs held needs a frozen tower (optimizer.rates.vision 0) and "
            "the student's learns: computing its outputs in every step"
        )
        return {}
    program = program_of(config, task, teacher.params)
    begun = program.init(config.seed, config.steps)
    kept = warm_start(begun.params)["model"]["vision"]
    return {"student": (kept, task.model)}


def _hold_tokens(
    towers: Mapping[str, tuple[Params, VQAConfig]], source: Source, blank: bool
) -> Callable[[Batch], Batch] | None:
    """Compute frozen towers' tokens once; return what puts them into a batch.

    It is None where all towers learn.

    Raises:
        UserError: they are too much for memory.
    """
    if not towers:
        return None
    each = sum(bytes_of_tokens(params, config=of) for params, of in towers.values())
    check_fits("tokens", each, len(source), "set tower_outputs to computed")
    images = Images(source, range(len(source)), blank)
    tokens = {
        name: image_tokens(params, images, config=model)
        for name, (params, model) in towers.items()
    }

    def put(batch: Batch) -> Batch:
        held = {name: rows[batch["index"]] for name, rows in tokens.items()}
        # Of a batch that carries the student's, no tower sees the images.
        unseen = "image" if "student" in held else None
        rest = {key: value for key, value in batch.items() if key != unseen}
        return {**rest, "tokens": held}

    return put

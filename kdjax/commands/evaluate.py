"""`kdjax eval`: score a finished run's model, or any CLIP model, on a split."""

from typing import Any

from ml_collections import ConfigDict

from kdjax.commands.common import source_of
from kdjax.commands.compute import compute_of
from kdjax.commands.models import open_model
from kdjax.commands.names import run_folder
from kdjax.commands.reporter import Reporter
from kdjax.commands.vqa_model import open_vqa_model
from kdjax.commands.workdir import Workdir
from kdjax.errors import UserError
from kdjax.evaluation import registry
from kdjax.evaluation.subject import Subject


def evaluate(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Score `config.model` on the split that `config.eval.split` names."""
    compute = compute_of(config, reporter)
    source = source_of(config, config.eval.split)
    run = run_folder(config.model, workdir.path)
    answering = None if run is None else open_vqa_model(run, compute)
    if answering is not None:
        subject = Subject(
            config=answering.config,
            tokenizer=answering.tokenizer,
            source=source,
            answers=answering.answers,
            questions_per_image=answering.questions_per_image,
            blank=answering.blank,
        )
        names = registry.evaluators_of("vqa")
        return dict(registry.evaluate(names, answering.params, subject).results)
    model = open_model(config.model, workdir.path, compute, say=reporter.say)
    if model.params is None or model.tokenizer is None:
        raise UserError(
            f"model {config.model!r} is an architecture without weights: name a run, a "
            "directory or a hub name"
        )
    subject = Subject(config=model.config, tokenizer=model.tokenizer, source=source)
    names = registry.evaluators_of("clip")
    return dict(registry.evaluate(names, model.params, subject).results)

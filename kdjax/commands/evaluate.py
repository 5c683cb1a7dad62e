"""`kdjax eval`: score a finished run's model, or any CLIP model, on a split."""

from typing import Any

from ml_collections import ConfigDict

from kdjax.commands.common import score_zero_shot, source_of
from kdjax.commands.models import (
    NamedVQAModel,
    compute_of,
    open_model,
    open_vqa_model,
    run_folder,
)
from kdjax.commands.reporter import Reporter
from kdjax.commands.vqa import score_vqa
from kdjax.commands.workdir import Workdir
from kdjax.data.records import Source
from kdjax.errors import UserError


def evaluate(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Score `config.model` on the split that `config.eval.split` names."""
    compute = compute_of(config, reporter)
    source = source_of(config, config.eval.split)
    run = run_folder(config.model, workdir.path)
    answering = None if run is None else open_vqa_model(run, compute)
    if answering is not None:
        return _vqa(answering, source)
    model = open_model(config.model, workdir.path, compute)
    if model.params is None or model.tokenizer is None:
        raise UserError(
            f"model {config.model!r} is an architecture without weights: name a run, a "
            "directory or a hub name"
        )
    accuracy = score_zero_shot(model.params, model.config, model.tokenizer, source)
    return {"zero_shot_accuracy": accuracy}


def _vqa(model: NamedVQAModel, source: Source) -> dict[str, Any]:
    results, _ = score_vqa(
        model.params,
        model.config,
        model.tokenizer,
        model.answers,
        source,
        model.questions_per_image,
        model.blank,
    )
    return results

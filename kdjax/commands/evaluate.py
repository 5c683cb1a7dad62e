"""`kdjax eval`: score a finished run's model, or any CLIP model, on a split."""

from dataclasses import replace
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax.commands.common import score_zero_shot, source_of
from kdjax.commands.models import (
    MODEL,
    Compute,
    compute_of,
    load_vqa_model,
    open_model,
    run_folder,
)
from kdjax.commands.reporter import Reporter
from kdjax.commands.vqa import score_vqa
from kdjax.commands.workdir import Workdir
from kdjax.data.records import Source
from kdjax.errors import UserError
from kdjax.models.config import vqa_config_from_dict


def evaluate(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Score `config.model` on the split that `config.eval.split` names."""
    compute = compute_of(config, reporter)
    source = source_of(config, config.eval.split)
    run = run_folder(config.model, workdir.path)
    if run is not None and (run / MODEL / "vqa.json").exists():
        return _vqa(run / MODEL, source, compute)
    model = open_model(config.model, workdir.path, compute)
    if model.params is None or model.tokenizer is None:
        raise UserError(
            f"model {config.model!r} is an architecture without weights: name a run, a "
            "directory or a hub name"
        )
    accuracy = score_zero_shot(model.params, model.config, model.tokenizer, source)
    return {"zero_shot_accuracy": accuracy}


def _vqa(directory: epath.Path, source: Source, compute: Compute) -> dict[str, Any]:
    saved, params, tokenizer = load_vqa_model(directory)
    model = vqa_config_from_dict(saved["model"])
    results, _ = score_vqa(
        params,
        replace(
            model,
            dtype=compute.dtype,
            attention=compute.attention,
            vision=replace(model.vision, attention=compute.attention),
        ),
        tokenizer,
        saved["answers"],
        source,
        saved["questions_per_image"],
        saved["blank"],
    )
    return results

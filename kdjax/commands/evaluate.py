"""`kdjax eval`: score a finished run's model, or any CLIP model, on a split."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax.commands.common import score_zero_shot, source_of, tokenizer_of
from kdjax.commands.models import (
    MODEL,
    compute_of,
    fit_vocabulary,
    load_vqa_model,
    open_model,
)
from kdjax.commands.reporter import Reporter
from kdjax.commands.vqa import score_vqa
from kdjax.commands.workdir import Workdir
from kdjax.errors import UserError
from kdjax.models.config import vqa_config_from_dict


def evaluate(config: ConfigDict, workdir: Workdir, reporter: Reporter) -> Any:
    """Score `config.model` on the split that `config.eval.split` names."""
    source = source_of(config, config.eval.split)
    for path in (epath.Path(config.model), workdir.path.parent / config.model):
        if (path / MODEL / "vqa.json").exists():
            return _vqa(path / MODEL, source)
    model = open_model(config.model, workdir.path, compute_of(config, reporter))
    if model.params is None:
        raise UserError(
            f"model {config.model!r} is an architecture without weights: name a run, a "
            "directory or a hub name"
        )
    tokenizer = model.tokenizer or tokenizer_of(config.tokenizer, source)
    clip = fit_vocabulary(model, tokenizer)
    accuracy = score_zero_shot(model.params, clip, tokenizer, source)
    return {"zero_shot_accuracy": accuracy}


def _vqa(directory: epath.Path, source: Any) -> dict[str, Any]:
    saved, params, tokenizer = load_vqa_model(directory)
    results, _ = score_vqa(
        params,
        vqa_config_from_dict(saved["model"]),
        tokenizer,
        saved["answers"],
        source,
        saved["questions_per_image"],
        saved["blank"],
    )
    return results

"""The VQA model that a run leaves, saved and opened."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from kdjax.commands.compute import Compute
from kdjax.commands.names import check_ended
from kdjax.data.tokenizer import Tokenizer, load_tokenizer
from kdjax.errors import UserError
from kdjax.files import make_folder, write_whole
from kdjax.hosts import whole
from kdjax.hub import MODEL
from kdjax.models import Params, VQAConfig, VQAModel, abstract_of
from kdjax.models.config import vqa_config_from_dict
from kdjax.weights.rules import check_tensors

# In a model's folder, beside its tokenizer.
VQA_CONFIG, VQA_WEIGHTS = "vqa.json", "vqa.safetensors"


@dataclass(frozen=True)
class NamedVQAModel:
    """A VQA model that a run has made.

    Attributes:
        config: of the model.
        params: its weights.
        tokenizer: its own.
        answers: its classes.
        questions_per_image: that it is asked at once.
        blank: whether it never saw an image.
    """

    config: VQAConfig
    params: Params
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    questions_per_image: int
    blank: bool


def save_vqa_model(
    config: dict[str, Any], params: Params, tokenizer: Tokenizer, workdir: epath.Path
) -> None:
    """Write a run's VQA model: vqa.json, vqa.safetensors and its tokenizer."""
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save

    directory = workdir / MODEL
    make_folder(directory)
    # What reads it again knows no bfloat16.
    flat = {
        name: np.asarray(x, np.float32)
        for name, x in flatten_dict(jax.device_get(whole(params)), sep="/").items()
    }
    write_whole(directory / VQA_WEIGHTS, save(flat))
    write_whole(directory / VQA_CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    tokenizer.save(directory, config["model"]["question_length"])


def load_vqa_model(directory: epath.Path, compute: Compute) -> NamedVQAModel:
    """Return the model that `save_vqa_model` wrote.

    Raises:
        UserError: it is damaged.
    """
    from flax.traverse_util import flatten_dict, unflatten_dict
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        saved = json.loads((directory / VQA_CONFIG).read_text())
        flat = load((directory / VQA_WEIGHTS).read_bytes())
        config = compute.of_vqa(vqa_config_from_dict(saved["model"]))
        abstract = nnx.to_pure_dict(abstract_of(VQAModel, config))
        expected = flatten_dict(abstract, sep="/")
        check_tensors(_shapes(flat), _shapes(expected))
        about = {k: saved[k] for k in ("questions_per_image", "blank")}
        answers = tuple(saved["answers"])
        if len(answers) != config.num_answers:
            raise ValueError(f"{len(answers)} answers and {config.num_answers} classes")
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise UserError(
            f"the VQA model in {directory} is damaged ({error}): remove results.json "
            "of its run, and the same command saves it again"
        ) from error
    held = {name: x.astype(expected[name].dtype) for name, x in flat.items()}
    params, tokenizer = unflatten_dict(held, sep="/"), load_tokenizer(str(directory))
    return NamedVQAModel(config, params, tokenizer, answers, **about)


def _shapes(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in flat.items()}


def open_vqa_model(run: epath.Path, compute: Compute) -> NamedVQAModel | None:
    """Return the VQA model that a run has made, or None if it has made none.

    Raises:
        UserError: it is damaged, or the run has not ended.
    """
    directory = run / MODEL
    if not (directory / VQA_CONFIG).exists():
        return None
    check_ended(run)
    return load_vqa_model(directory, compute)

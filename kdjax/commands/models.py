"""A model by what people call it: an architecture, a run, a directory, a hub name."""

import json
from dataclasses import dataclass, replace
from typing import Any

import jax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from kdjax.commands.reporter import Reporter
from kdjax.data.tokenizer import Tokenizer, load_tokenizer
from kdjax.errors import UserError
from kdjax.models import CLIP, CLIPConfig, architecture, graph_of
from kdjax.models.config import Kernel
from kdjax.models.zoo import ARCHITECTURES, with_vocabulary
from kdjax.training.tasks import Params
from kdjax.weights import load_clip, save_clip

MODEL = "model"


@dataclass(frozen=True)
class NamedModel:
    """A CLIP model that a config names.

    Attributes:
        config: of the model.
        params: its weights, or None for a fresh architecture.
        tokenizer: its own, or None for a fresh architecture.
    """

    config: CLIPConfig
    params: Params | None
    tokenizer: Tokenizer | None


@dataclass(frozen=True)
class Compute:
    """How forward passes compute.

    Attributes:
        dtype: of activations.
        attention: the kernel.
    """

    dtype: str
    attention: Kernel

    def of(self, config: CLIPConfig) -> CLIPConfig:
        """Return a model's config that computes so."""
        return replace(
            config,
            dtype=self.dtype,
            vision=replace(config.vision, attention=self.attention),
            text=replace(config.text, attention=self.attention),
        )


def compute_of(config: ConfigDict, reporter: Reporter) -> Compute:
    """Return how a run computes: what its config asks for and this machine can do.

    `dtype` "auto" is bfloat16 on accelerators and float32 on CPUs.

    Raises:
        UserError: an unknown dtype or attention kernel.
    """
    backend = jax.default_backend()
    dtype, attention = config.dtype, config.attention
    if dtype == "auto":
        dtype = "float32" if backend == "cpu" else "bfloat16"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype is {dtype!r}; give auto, float32, bfloat16 or float16")
    if attention not in ("xla", "cudnn"):
        raise UserError(f"attention is {attention!r}; give xla or cudnn")
    if attention == "cudnn" and backend != "gpu":
        reporter.say(f"attention cudnn needs a GPU and this is a {backend}: using xla")
        attention = "xla"
    return Compute(dtype, attention)


def open_model(name: str, workdir: epath.Path, compute: Compute) -> NamedModel:
    """Return the model that a config names.

    Args:
        name: an architecture of the zoo, the workdir of a finished run (where one
            stands, or beside `workdir`), a directory in the hub's layout, a hub name.
        workdir: of the run that asks.
        compute: how the model computes.
    """
    if name in ARCHITECTURES:
        return NamedModel(compute.of(architecture(name)), None, None)
    for path in (epath.Path(name), workdir.parent / name):
        if (path / "environment.json").exists():
            if not (path / MODEL / "config.json").exists():
                raise UserError(
                    f"the run in {path} has no CLIP model in its folder {MODEL!r}: let "
                    "it finish, or name the run of pretrain or distill"
                )
            return _load(str(path / MODEL), compute)
    check_name(name, workdir)
    return _load(name, compute)


def check_name(name: str, workdir: epath.Path) -> None:
    """Refuse what is no architecture, no folder here and no hub name; name the nearest.

    Raises:
        UserError: it is none of them.
    """
    folders = (epath.Path(name), workdir.parent / name)
    if "/" not in name and not any(folder.is_dir() for folder in folders):
        architecture(name)


def _load(directory: str, compute: Compute) -> NamedModel:
    clip = load_clip(directory)
    params = nnx.to_pure_dict(nnx.state(clip))
    return NamedModel(compute.of(clip.config), params, load_tokenizer(directory))


def fit_vocabulary(model: NamedModel, tokenizer: Tokenizer) -> CLIPConfig:
    """Return the model's config for a tokenizer; a loaded model keeps its own."""
    if model.params is not None:
        return model.config
    return with_vocabulary(model.config, tokenizer.vocab_size, tokenizer.eos_id)


def save_model(
    config: CLIPConfig, params: Params, tokenizer: Tokenizer, workdir: epath.Path
) -> None:
    """Write a run's CLIP model in the hub's layout, with its tokenizer."""
    save_clip(nnx.merge(graph_of(CLIP, config), params), workdir / MODEL)
    tokenizer.save(workdir / MODEL)


def save_vqa_model(
    config: dict[str, Any], params: Params, tokenizer: Tokenizer, workdir: epath.Path
) -> None:
    """Write a run's VQA model: vqa.json, vqa.safetensors and its tokenizer."""
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save

    directory = workdir / MODEL
    directory.mkdir(parents=True, exist_ok=True)
    flat = flatten_dict(jax.device_get(params), sep="/")
    (directory / "vqa.safetensors").write_bytes(save(flat))
    (directory / "vqa.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(directory)


def load_vqa_model(directory: epath.Path) -> tuple[dict[str, Any], Params, Tokenizer]:
    """Return what `save_vqa_model` wrote."""
    from flax.traverse_util import unflatten_dict
    from safetensors.numpy import load

    config = json.loads((directory / "vqa.json").read_text())
    flat = load((directory / "vqa.safetensors").read_bytes())
    params = unflatten_dict(flat, sep="/")
    return config, params, load_tokenizer(str(directory))

"""A model by what people call it: an architecture, a run, a directory, a hub name."""

import json
import os.path
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdjax.commands.calibration import CALIBRATION, stored_scale, wanted_scales
from kdjax.commands.reporter import Reporter
from kdjax.data.processor import load_processor
from kdjax.data.tokenizer import Tokenizer, load_tokenizer
from kdjax.errors import UserError
from kdjax.files import make_folder, remove_file, write_whole
from kdjax.hosts import whole
from kdjax.hub import CONFIG, ENVIRONMENT, MODEL, OPEN_CLIP_CONFIG
from kdjax.models import (
    CLIP,
    CLIPConfig,
    Params,
    VisionConfig,
    VQAConfig,
    VQAModel,
    abstract_of,
    architecture,
    graph_of,
)
from kdjax.models.config import Kernel, Remat, vqa_config_from_dict
from kdjax.models.zoo import ARCHITECTURES, with_vocabulary
from kdjax.parallel import FROZEN, SPLIT
from kdjax.weights import check_format, load_clip, save_clip

# As `inherit_from`, the config's own teacher and not a run of that name.
TEACHER = "teacher"
# Fused kernels of attention, and the machine that each is for.
KERNELS = {"cudnn": "gpu", "splash": "tpu"}


@dataclass(frozen=True)
class NamedModel:
    """A CLIP model that a config names.

    Attributes:
        config: of the model.
        params: its weights, or those of some of its parts; None for a fresh
            architecture.
        tokenizer: its own, or None for a fresh architecture.
        directory: that it was loaded from, or its name on the hub.
    """

    config: CLIPConfig
    params: Params | None
    tokenizer: Tokenizer | None
    directory: str = ""


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


@dataclass(frozen=True)
class Compute:
    """How a model computes, and how it is held.

    Attributes:
        dtype: of activations.
        attention: the kernel.
        param_dtype: of parameters.
        vision_remat: what the gradient of the image tower computes again.
        text_remat: and that of the text tower.
        over: axes of the mesh that may split the parameters.
    """

    dtype: str
    attention: Kernel
    param_dtype: str = "float32"
    vision_remat: Remat = "none"
    text_remat: Remat = "none"
    over: tuple[str, ...] = SPLIT

    def of(self, config: CLIPConfig) -> CLIPConfig:
        """Return a model's config that computes so."""
        text = replace(config.text, attention=self.attention, remat=self.text_remat)
        return replace(
            config,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            vision=self._of_tower(config.vision),
            text=text,
        )

    def of_vqa(self, config: VQAConfig) -> VQAConfig:
        """Return a VQA model's config that computes so."""
        return replace(
            config,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            attention=self.attention,
            vision=self._of_tower(config.vision),
        )

    def _of_tower(self, config: VisionConfig) -> VisionConfig:
        return replace(config, attention=self.attention, remat=self.vision_remat)


def compute_of(
    config: ConfigDict, reporter: Reporter, backend: str | None = None
) -> Compute:
    """Return how a run computes: what its config asks for and a machine can do.

    Args:
        config: of the run.
        reporter: is told what the machine cannot.
        backend: of the machine: cpu, gpu or tpu; None for this one's.
    """
    backend, attention = backend or jax.default_backend(), config.attention
    needed = KERNELS.get(attention, backend)
    if needed != backend:
        reporter.say(
            f"attention {attention} needs a {needed.upper()} and this is a {backend}: "
            "using xla"
        )
        attention = "xla"
    remat = config.get("remat", {})
    return Compute(
        _dtype(config.dtype, backend),
        attention,
        config.get("param_dtype", "float32"),
        remat.get("vision", "none"),
        remat.get("text", "none"),
    )


def compute_of_teacher(
    config: ConfigDict, compute: Compute, backend: str | None = None
) -> Compute:
    """Return how a frozen teacher computes beside a student that computes so.

    It is held in what it computes in, and without gradient it keeps nothing for one.
    """
    dtype = _dtype(config.teacher_dtype, backend or jax.default_backend())
    over = FROZEN[config.teacher_sharding]
    return Compute(dtype, compute.attention, dtype, over=over)


def _dtype(name: str, backend: str) -> str:
    """Return a dtype; "auto" is bfloat16 on accelerators and float32 on CPUs."""
    if name != "auto":
        return name
    return "float32" if backend == "cpu" else "bfloat16"


def open_model(
    name: str, workdir: epath.Path, compute: Compute, mesh: Mesh | None = None
) -> NamedModel:
    """Return the model that a config names.

    Args:
        name: an architecture of the zoo, the workdir of a finished run (where one
            stands, or beside `workdir`), a directory in the hub's layout, a hub name.
        workdir: of the run that asks.
        compute: how the model computes.
        mesh: where its weights go; None for the default device.
    """
    if name in ARCHITECTURES:
        return NamedModel(compute.of(architecture(name)), None, None)
    return _load(directory_of(name, workdir), compute, mesh)


def directory_of(name: str, workdir: epath.Path) -> str:
    """Return the directory of a model with weights, or its name on the hub.

    Args:
        name: that a config gives it, see `open_model`.
        workdir: of the run that asks.

    Raises:
        UserError: it has no weights, or there is nothing of that name.
    """
    if name in ARCHITECTURES:
        raise UserError(
            f"{name!r} is an architecture without weights: name a run, a directory or "
            "a hub name"
        )
    path = run_folder(name, workdir)
    if path is None:
        check_name(name, workdir)
        return name
    return model_of(path)


def run_folder(name: str, workdir: epath.Path) -> epath.Path | None:
    """Return the workdir of the run that a config names, or None if it is no run.

    Args:
        name: a path, or the name of a folder beside `workdir`; that of an architecture
            is never a run.
        workdir: of the run that asks.
    """
    return None if name in ARCHITECTURES else _run_at(name, workdir)


def _run_at(name: str, workdir: epath.Path) -> epath.Path | None:
    beside = workdir.parent / name
    if "://" not in str(beside):
        # A stage of a chain may say "../teacher" before its folder is there.
        beside = epath.Path(os.path.normpath(beside))
    for path in (epath.Path(name), beside):
        if (path / ENVIRONMENT).exists():
            return path
    return None


def run_of(name: str, workdir: epath.Path) -> epath.Path | None:
    """Return the run that a config names by its workdir or by its model's folder."""
    inside = epath.Path(name)
    if inside.name == MODEL:
        return _run_at(str(inside.parent), workdir)
    return run_folder(name, workdir)


def named_models(config: ConfigDict) -> dict[str, str]:
    """Return the names of models in a config, by key.

    Of several teachers the keys are "teacher_0", "teacher_1" and on.

    Raises:
        UserError: teachers are no names joined by commas.
    """
    names = {key: config.get(key) for key in ("model", "student", "tower")}
    if config.get("inherit_from") != TEACHER:
        names["inherit_from"] = config.get("inherit_from")
    teachers = teacher_names(config.get("teacher", ""))
    for index, name in enumerate(teachers):
        names["teacher" if len(teachers) == 1 else f"teacher_{index}"] = name
    return {key: name for key, name in names.items() if isinstance(name, str)}


def named_runs(config: ConfigDict, workdir: epath.Path) -> dict[str, Any]:
    """Return what is known of what a config names: of runs their hash and steps.

    Raises:
        UserError: it asks for a stored calibration that is not there.
    """
    names = named_models(config)
    teachers = {key: name for key, name in names.items() if key.startswith(TEACHER)}
    scales = wanted_scales(config.get("teacher_scale", "own"), len(teachers))
    found: dict[str, Any] = {}
    for (key, name), scale in zip(teachers.items(), scales, strict=True):
        if scale == "stored":
            directory = directory_of(name, workdir)
            calibrated = key.replace(TEACHER, "calibrated_scale")
            found[calibrated] = stored_scale(directory, config)
    for key, name in names.items():
        path = run_of(name, workdir)
        if path is not None and (path / "results.json").exists():
            results = json.loads((path / "results.json").read_text())
            found[key] = {k: results.get(k) for k in ("run", "steps")}
    return found


def teacher_names(teachers: Any) -> tuple[str, ...]:
    """Return the teachers that a config names, joined by commas.

    Raises:
        UserError: a name is empty, or there twice.
    """
    if not isinstance(teachers, str) or not teachers:
        return ()
    names = tuple(name.strip() for name in teachers.split(","))
    if "" in names or len(set(names)) < len(names):
        raise UserError(
            f"teacher is {teachers!r}; give a name, or different ones joined by commas"
        )
    return names


def check_name(name: str, workdir: epath.Path) -> None:
    """Refuse what is no architecture, no folder here and no hub name; name the nearest.

    Raises:
        UserError: it is none of them.
    """
    if epath.Path(name).is_file():
        raise UserError(f"{name} is a file; name a run, a directory or a hub name")
    folders = (epath.Path(name), workdir.parent / name)
    if "/" in name or any(folder.is_dir() for folder in folders):
        return
    try:
        architecture(name)
    except UserError as error:
        raise UserError(
            f"there is no folder {name!r}, here or beside the workdir, and {error}"
        ) from error


def _load(directory: str, compute: Compute, mesh: Mesh | None) -> NamedModel:
    clip = load_clip(
        directory, param_dtype=compute.param_dtype, mesh=mesh, over=compute.over
    )
    params = nnx.to_pure_dict(nnx.state(clip))
    # Of all that a processor knows the tower needs most; it refuses what none can do.
    tokenizer = load_processor(directory).tokenizer
    return NamedModel(compute.of(clip.config), params, tokenizer, directory)


def fit_vocabulary(model: NamedModel, tokenizer: Tokenizer) -> CLIPConfig:
    """Return the model's config for a tokenizer; a loaded model keeps its own.

    Raises:
        UserError: the tokenizer does not end texts.
    """
    check_ends(model.config, tokenizer)
    if model.params is not None:
        return model.config
    return with_vocabulary(model.config, tokenizer.vocab_size, tokenizer.eos_id)


def check_ends(config: CLIPConfig, tokenizer: Tokenizer) -> None:
    """Check that texts have the end at which a model reads them.

    Raises:
        UserError: the tokenizer does not end texts.
    """
    if config.text.pooling != "last" and not tokenizer.ends_texts:
        raise UserError(
            "the tokenizer does not put its eos_token after a text, and a CLIP model "
            "reads a text at that token: save the tokenizer with a post-processor that "
            "does"
        )


def format_of(config: CLIPConfig) -> str:
    """Return the format in which a run writes its model, which may be checked before.

    Hugging Face's layout, or OpenCLIP's where that has no words for the model.

    Raises:
        UserError: neither has.
    """
    refused = []
    for format in ("safetensors", "open_clip"):
        try:
            check_format(config, format)
            return format
        except UserError as error:
            refused.append(f"{format}: {error}")
    raise UserError(
        f"the run could not write its model in the end ({'; '.join(refused)}): name "
        "another student or teacher"
    )


def save_model(
    config: CLIPConfig, params: Params, tokenizer: Tokenizer, workdir: epath.Path
) -> None:
    """Write a run's CLIP model in a layout of others, with its tokenizer."""
    clip = nnx.merge(graph_of(CLIP, config), params)
    format = format_of(config)
    # It is of the weights that were there before.
    remove_file(workdir / MODEL / CALIBRATION)
    save_clip(clip, workdir / MODEL, format=format, tokenizer=tokenizer)


def model_of(run: epath.Path) -> str:
    """Return the directory of the CLIP model that a run has made.

    Raises:
        UserError: it has made none.
    """
    directory = run / MODEL
    if any((directory / name).exists() for name in (CONFIG, OPEN_CLIP_CONFIG)):
        return str(directory)
    raise UserError(
        f"the run in {run} has no CLIP model in its folder {MODEL!r}: let it finish, "
        "or name the run of pretrain or distill"
    )


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
    write_whole(directory / "vqa.safetensors", save(flat))
    write_whole(directory / "vqa.json", (json.dumps(config, indent=2) + "\n").encode())
    tokenizer.save(directory, config["model"]["question_length"])


def load_vqa_model(directory: epath.Path) -> tuple[dict[str, Any], Params, Tokenizer]:
    """Return what `save_vqa_model` wrote.

    Raises:
        UserError: it is damaged.
    """
    from flax.traverse_util import unflatten_dict
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        config = json.loads((directory / "vqa.json").read_text())
        flat = load((directory / "vqa.safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"the VQA model in {directory} is damaged ({error}): remove results.json "
            "of its run, and the same command saves it again"
        ) from error
    params = unflatten_dict(flat, sep="/")
    return config, params, load_tokenizer(str(directory))


def open_vqa_model(run: epath.Path, compute: Compute) -> NamedVQAModel | None:
    """Return the VQA model that a run has made, or None if it has made none.

    Raises:
        UserError: it is damaged.
    """
    directory = run / MODEL
    if not (directory / "vqa.json").exists():
        return None
    saved, params, tokenizer = load_vqa_model(directory)
    config = compute.of_vqa(vqa_config_from_dict(saved["model"]))
    shapes = nnx.to_pure_dict(abstract_of(VQAModel, config))
    return NamedVQAModel(
        config,
        jax.tree.map(lambda x, shape: x.astype(shape.dtype), params, shapes),
        tokenizer,
        tuple(saved["answers"]),
        saved["questions_per_image"],
        saved["blank"],
    )

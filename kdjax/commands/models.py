"""A model by what people call it: an architecture, a run, a directory, a hub name."""

import json
import os.path
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding
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
    TOWERS,
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
from kdjax.parallel import FROZEN, SPLIT, parameter_shardings
from kdjax.training.checkpoints import Say, restore_model, steps_of
from kdjax.weights import (
    check_format,
    has_weights,
    load_clip,
    load_clip_config,
    save_clip,
    save_description,
)
from kdjax.weights.rules import check_tensors

# As `inherit_from`, the config's own teacher and not a run of that name.
TEACHER = "teacher"
# In a model's folder, beside its tokenizer.
VQA_CONFIG, VQA_WEIGHTS = "vqa.json", "vqa.safetensors"
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
    name: str,
    workdir: epath.Path,
    compute: Compute,
    mesh: Mesh | None = None,
    say: Say = lambda line: None,
) -> NamedModel:
    """Return the model that a config names.

    Args:
        name: an architecture of the zoo, the workdir of a run (where one stands, or
            beside `workdir`; of one that has not ended it is the newest checkpoint), a
            directory in the hub's layout, a hub name.
        workdir: of the run that asks.
        compute: how the model computes.
        mesh: where its weights go; None for the default device.
        say: told of checkpoints that are damaged.
    """
    if name in ARCHITECTURES:
        return NamedModel(compute.of(architecture(name)), None, None)
    run = run_of(name, workdir)
    if run is not None and under_way(run):
        return _of_checkpoint(run, compute, mesh, say)
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


def under_way(run: epath.Path) -> int:
    """Return the step of a run's newest checkpoint if that is all it has; else 0."""
    directory = run / MODEL
    if not _described(directory) or has_weights(directory):
        return 0
    return max(steps_of(run), default=0)


def _described(directory: epath.Path) -> bool:
    """Return whether a directory says what CLIP model it is of."""
    return any((directory / name).exists() for name in (CONFIG, OPEN_CLIP_CONFIG))


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
        elif path is not None and (step := under_way(path)):
            found[key] = {"checkpoint": step}
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


def _of_checkpoint(
    run: epath.Path, compute: Compute, mesh: Mesh | None, say: Say
) -> NamedModel:
    """Return the model of a run that has not ended, as its newest checkpoint has it."""
    directory = run / MODEL
    config = compute.of(load_clip_config(directory))
    abstract = abstract_of(CLIP, config)
    shapes = nnx.to_pure_dict(abstract)
    device = SingleDeviceSharding(jax.local_devices()[0])
    places = (
        jax.tree.map(lambda x: device, shapes)
        if mesh is None
        else parameter_shardings(abstract, mesh, compute.over)
    )
    target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places
    )
    params = restore_model(run, target, say)
    tokenizer = load_processor(str(directory)).tokenizer
    return NamedModel(config, params, tokenizer, str(directory))


def with_parts(model: NamedModel, parts: str) -> NamedModel:
    """Return a model with the weights of all its parts or of one tower alone.

    Args:
        model: that may have weights.
        parts: "all", "vision" or "text", a tower with its projection.

    Raises:
        UserError: parts are asked for of a model without weights.
    """
    if parts == "all":
        return model
    if model.params is None:
        raise UserError(
            f"parts is {parts!r} and the model an architecture, which has no weights: "
            "name a run, a directory or a hub name, or set parts to all"
        )
    kept = {k: x for k, x in model.params.items() if k in TOWERS[parts]}
    return replace(model, params=kept)


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


def begin_model(config: CLIPConfig, tokenizer: Tokenizer, workdir: epath.Path) -> None:
    """Write what a run's model is, so that others can use its checkpoints."""
    format = format_of(config)
    save_description(config, workdir / MODEL, format=format, tokenizer=tokenizer)


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
    if _described(directory) and has_weights(directory):
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
        UserError: it is damaged.
    """
    directory = run / MODEL
    if not (directory / VQA_CONFIG).exists():
        return None
    return load_vqa_model(directory, compute)

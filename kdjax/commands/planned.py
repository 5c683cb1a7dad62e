"""The step of a run by its config alone: no data, weights, hub or workdir is opened."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from kdjax.commands.calibration import wanted_scales
from kdjax.commands.common import objectives_of, optimizer_of
from kdjax.commands.compute import Compute, compute_of, compute_of_teacher
from kdjax.commands.contrastive import check_caption_length
from kdjax.commands.names import TEACHER, model_of, run_folder, run_of, teacher_names
from kdjax.commands.reporter import Reporter
from kdjax.commands.start import config_of_start
from kdjax.commands.teacher import EMBEDDED, SCALARS
from kdjax.embeddings import Wanted
from kdjax.errors import UserError
from kdjax.evaluation.answering import shapes_of_tokens
from kdjax.evaluation.embedding import shapes_of_images
from kdjax.hub import MODEL
from kdjax.models import (
    CLIP,
    CLIPConfig,
    Params,
    VQAConfig,
    VQAModel,
    abstract_of,
    architecture,
)
from kdjax.models.config import vqa_config_from_dict
from kdjax.models.zoo import ARCHITECTURES, ON_THE_HUB
from kdjax.parallel import BATCH_AXES, parameter_shardings, replicated
from kdjax.training.flops import learning_towers, model_shapes
from kdjax.training.memory import bytes_on_device
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.steps import Program, build_program
from kdjax.training.tasks import ContrastiveTask, VQATask
from kdjax.weights import load_clip_config

# Names of runs and folders are looked up here, and nothing is written.
HERE = epath.Path("plan")
# A plan does not open the data or a tokenizer: as many answers as most models of VQA v2
# have, and as many words of questions as CLIP. A model from captions has its own words.
ANSWERS, VOCABULARY = 3129, 49_408


@dataclass(frozen=True)
class Planned:
    """A run's step, of which only the shapes are there.

    Attributes:
        program: to lower.
        frozen: shapes of the step's argument of that name.
        batch: shapes of a global batch.
        models: what is trained and what it learns from, by what people call it.
    """

    program: Program
    frozen: Any
    batch: Mapping[str, Any]
    models: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers of parameters, by what people call a model."""
        return {name: _count(config) for name, config in self.models.items()}

    def held(self, mesh: Mesh) -> int:
        """Return the bytes that a device holds whatever a step does.

        They are of the state, of the frozen parameters and of its rows of the batch.
        """
        rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        batch = jax.tree.map(lambda _: rows, self.batch)
        return sum(
            bytes_on_device(*pair)
            for pair in (
                (self.program.shapes, self.program.shardings),
                (self.frozen, self.program.frozen),
                (self.batch, batch),
            )
        )

    @property
    def inputs(self) -> tuple[Any, Any, Any]:
        """Shapes of state, frozen and batch."""
        return self.program.shapes, self.frozen, self.batch


def planned(
    command: str, config: ConfigDict, mesh: Mesh, backend: str, reporter: Reporter
) -> Planned:
    """Return the step of a run.

    Args:
        command: pretrain, distill or vqa.
        config: of the run.
        mesh: that it is to run on.
        backend: of that mesh's devices: cpu, gpu or tpu.
        reporter: is told what those cannot do.

    Raises:
        UserError: a model is not known here, or does not fit the config.
    """
    student = compute_of(config, reporter, backend)
    if command == "vqa":
        return _vqa(config, mesh, student, backend)
    return _contrastive(config, mesh, student, backend)


def _contrastive(
    config: ConfigDict, mesh: Mesh, compute: Compute, backend: str
) -> Planned:
    names = teacher_names(config.get("teacher", ""))
    named = config.get("student", config.get("model"))
    student, frozen = config_of(named), compute
    if names:
        frozen = compute_of_teacher(config, compute, backend)
    teachers = tuple(frozen.of(config_of(name)) for name in names)
    if teachers:
        student = _begun(config, student, teachers[0])
    student = compute.of(student)
    check_caption_length(config.caption_length, student)
    task = ContrastiveTask(student, teachers, objectives_of(config), config.microbatch)
    held = bool(names) and config.teacher_outputs == "held"
    abstract = [abstract_of(CLIP, teacher) for teacher in teachers]
    kept = [
        _kept(nnx.to_pure_dict(x), scale, held)
        for x, scale in zip(abstract, _scales(config, names), strict=True)
    ]
    laid = [parameter_shardings(x, mesh, frozen.over) for x in abstract]
    places = tuple(
        {key: place.get(key, replicated(mesh)) for key in of}
        for of, place in zip(kept, laid, strict=True)
    )
    program = build_program(task, optimizer_of(config), mesh, places)
    batch = _captions(config, task, held)
    models = {named: student, **dict(zip(names, teachers, strict=True))}
    return Planned(program, _shapes(tuple(kept)), batch, models)


def _begun(config: ConfigDict, student: CLIPConfig, teacher: CLIPConfig) -> CLIPConfig:
    """Return what the student is when it begins, which may be some of a larger one."""
    whose = config.inherit_from
    ancestor = teacher if whose == TEACHER else config_of(whose)
    return config_of_start(
        student, teacher, ancestor, config.inherit, config.text_tower
    )


def _scales(config: ConfigDict, names: tuple[str, ...]) -> tuple[str, ...]:
    return wanted_scales(config.teacher_scale, len(names)) if names else ()


def _kept(params: Params, scale: str, held: bool) -> Params:
    """Return what of a teacher's parameters a step takes, its calibrated scale too."""
    calibrated = {} if scale == "own" else {"calibrated_scale": _array()}
    needed = SCALARS if held else params
    return {**{k: x for k, x in params.items() if k in needed}, **calibrated}


def _captions(config: ConfigDict, task: ContrastiveTask, held: bool) -> dict[str, Any]:
    """Return the shapes of a batch of `contrastive_batches`."""
    rows, lengths = config.batch_size, {"student": config.caption_length}
    if not held:
        for place, teacher in enumerate(task.teachers):
            lengths[f"teacher_{place}"] = teacher.text.context_length
    batch: dict[str, Any] = {
        "image": _images(config, task.student.vision.image_size),
        "index": _array(rows, dtype=jnp.int32),
        "caption": _array(rows, dtype=jnp.int32),
        "bits": _array(rows, dtype=jnp.uint32),
        "text": {k: _array(rows, n, dtype=jnp.int32) for k, n in lengths.items()},
    }
    if held:
        objective = task.objective_shapes()
        batch["teacher"] = [
            _said(teacher, (*EMBEDDED, *objective.wanted(place)), rows)
            for place, teacher in enumerate(task.teachers)
        ]
    return batch


def _said(teacher: CLIPConfig, wanted: Wanted, rows: int) -> dict[str, Any]:
    """Return the shapes of a teacher's outputs that a batch carries."""
    params = nnx.to_pure_dict(abstract_of(CLIP, teacher))
    seen = shapes_of_images(params, rows, config=teacher, wanted=wanted)
    text = _array(rows, teacher.embed_dim, dtype=seen["image"].dtype)
    return {**seen, "text": text}


def _vqa(config: ConfigDict, mesh: Mesh, compute: Compute, backend: str) -> Planned:
    tower = compute.of(config_of(config.tower))
    model = VQAConfig(
        vision=tower.vision,
        vocab_size=VOCABULARY,
        question_length=config.question_length,
        num_answers=ANSWERS,
        attention=compute.attention,
        dtype=compute.dtype,
        param_dtype=compute.param_dtype,
        **config.head,
    )
    frozen = compute_of_teacher(config, compute, backend)
    teacher = frozen.of_vqa(_vqa_config_of(config.teacher)) if config.teacher else None
    task = VQATask(model, objectives_of(config), teacher, config.microbatch)
    optimizer = optimizer_of(config)
    held = _held_tokens(task, config, optimizer)
    kept = places = None
    if teacher is not None:
        abstract = abstract_of(VQAModel, teacher)
        unseen = "vision" if "teacher" in held else None
        laid = parameter_shardings(abstract, mesh, frozen.over)
        params = nnx.to_pure_dict(abstract)
        kept = {key: x for key, x in params.items() if key != unseen}
        places = {key: laid[key] for key in kept}
    program = build_program(task, optimizer, mesh, places)
    models = {config.tower: model} | ({config.teacher: teacher} if teacher else {})
    return Planned(program, _shapes(kept), _questions(config, task, held), models)


def _held_tokens(
    task: VQATask, config: ConfigDict, optimizer: OptimizerConfig
) -> dict[str, VQAConfig]:
    """Return the models whose tokens a batch carries, by their names in it."""
    if config.tower_outputs != "held":
        return {}
    learning = learning_towers(model_shapes(task), optimizer.rates)
    held = {} if "vision" in learning else {"student": task.model}
    return held | ({"teacher": task.teacher} if task.teacher else {})


def _questions(
    config: ConfigDict, task: VQATask, held: Mapping[str, VQAConfig]
) -> dict[str, Any]:
    """Return the shapes of a batch of `vqa_batches`."""
    rows, asked = config.batch_size, config.questions_per_image
    lengths = {"student": config.question_length}
    if task.teacher is not None:
        lengths["teacher"] = task.teacher.question_length
    batch: dict[str, Any] = {
        "index": _array(rows, dtype=jnp.int32),
        "question": {
            k: _array(rows, asked, n, dtype=jnp.int32) for k, n in lengths.items()
        },
        "target": _array(rows, asked, task.model.num_answers),
        "mask": _array(rows, asked, dtype=jnp.bool_),
    }
    if "student" not in held:
        batch["image"] = _images(config, task.model.vision.image_size)
    if held:
        batch["tokens"] = {name: _tokens(of, rows) for name, of in held.items()}
    return batch


def _tokens(model: VQAConfig, rows: int) -> jax.ShapeDtypeStruct:
    """Return the shape of what a model's tower says of a batch."""
    size = model.vision.image_size
    params = nnx.to_pure_dict(abstract_of(VQAModel, model))["vision"]
    images = _array(rows, size, size, 3, dtype=jnp.uint8)
    return shapes_of_tokens(params, images, config=model)


def config_of(name: str) -> CLIPConfig:
    """Return the config of the CLIP model of that name, without its weights.

    Args:
        name: an architecture, the workdir of a run, a directory, or a name on the hub
            of which the sizes are known here.

    Raises:
        UserError: it is none of them.
    """
    known = ON_THE_HUB.get(name, name)
    if known in ARCHITECTURES:
        return architecture(known)
    run = run_folder(name, HERE)
    directory = str(name) if run is None else model_of(run)
    if epath.Path(directory).is_dir():
        return load_clip_config(epath.Path(directory))
    raise UserError(
        f"{name!r} is no architecture, run or directory here, and a plan asks the hub "
        f"for nothing: name the architecture that has its sizes "
        f"({', '.join(ARCHITECTURES)}), or one of {', '.join(ON_THE_HUB)}"
    )


def _vqa_config_of(name: str) -> VQAConfig:
    run = run_of(name, HERE)
    path = None if run is None else run / MODEL / "vqa.json"
    if path is None or not path.exists():
        raise UserError(
            f"the teacher {name!r} is no finished run of vqa: name the workdir of one"
        )
    saved = vqa_config_from_dict(json.loads(path.read_text())["model"])
    return replace(saved, num_answers=ANSWERS)


def _count(config: CLIPConfig | VQAConfig) -> int:
    model: Any = CLIP if isinstance(config, CLIPConfig) else VQAModel
    return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_of(model, config)))


def _array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _images(config: ConfigDict, size: int) -> jax.ShapeDtypeStruct:
    """Return the shape of a batch's images: the data's size, or else the model's."""
    side = config.data.get("image_size", size)
    return _array(config.batch_size, side, side, 3, dtype=jnp.uint8)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

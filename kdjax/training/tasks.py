"""What is trained: how its parameters start and what it loses on a batch.

A task is a frozen value, so equal tasks share one compiled step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from kdjax.embeddings import Embeddings, Wanted
from kdjax.models import CLIP, CLIPConfig, Params, VQAConfig, VQAModel, graph_of
from kdjax.models.clip import preprocess
from kdjax.models.vqa import answering_part
from kdjax.objectives import Objective, build_objective
from kdjax.objectives.patches import LAYERED
from kdjax.training.microbatches import in_parts

# What they do in a step, by its name in the compiled program.
TEACHERS = "teachers"
# Share of the patches that a masked image lacks (CLIP-KD, Yang 2024).
MASKED = 0.75

Batch = Mapping[str, Any]
# What a step takes as it is; its form is the task's own.
Frozen = Any
Options = tuple[tuple[str, Any], ...]


@runtime_checkable
class Task(Protocol):
    """The part of a training step that knows the model; a value, so hashable."""

    def __hash__(self) -> int: ...

    def init(self, rngs: nnx.Rngs) -> nnx.Module:
        """Return everything that is trained, freshly initialised."""
        ...

    def loss(
        self, trained: Any, frozen: Frozen, batch: Batch, progress: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return the loss to minimise and its terms.

        Args:
            trained: what `init` returns.
            frozen: the step's parameters that stay as they are.
            batch: the global batch.
            progress: share of the steps already made, a float32 scalar.
        """
        ...


class Trained(nnx.Module):
    """A model and the objective's own parameters, trained together."""

    def __init__(self, model: nnx.Module, objective: nnx.Module | None = None) -> None:
        self.model = model
        self.objective = nnx.data(objective)


@dataclass(frozen=True)
class ContrastiveTask:
    """A CLIP model learns from captions and, where there are some, from teachers.

    Attributes:
        student: the trained model.
        teachers: the frozen models. The `frozen` of the step has the parameters of
            each, and beside them, where it was calibrated, `calibrated_scale`; where
            the batch carries their outputs, the scales and a logit bias alone are
            needed.
        objectives: names with their options, as sorted pairs.
        microbatch: rows that the towers see at a time; 0 for all.
    """

    student: CLIPConfig
    teachers: tuple[CLIPConfig, ...]
    objectives: tuple[tuple[str, Options], ...]
    microbatch: int = 0

    def init(self, rngs: nnx.Rngs) -> Trained:
        """Return the student and the objective's parameters."""
        objective = self._objective(rngs)
        return Trained(CLIP(self.student, rngs=rngs), objective)

    def _objective(self, rngs: nnx.Rngs) -> Objective:
        return build_objective(
            {name: dict(options) for name, options in self.objectives},
            student_width=self.student.embed_dim,
            teacher_width=tuple(x.embed_dim for x in self.teachers) or None,
            student_bias=self.student.logit_bias_init is not None,
            student_vision=self.student.vision,
            teacher_vision=tuple(x.vision for x in self.teachers) or None,
            rngs=rngs,
        )

    def objective_shapes(self) -> Objective:
        """Return the objective with the shapes of its parameters in their places."""
        return nnx.eval_shape(lambda: self._objective(nnx.Rngs(0)))

    def loss(
        self, trained: Any, frozen: Frozen, batch: Batch, progress: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return the weighted sum of the objectives and each unweighted."""
        objective = trained.objective
        student = self._student(trained.model, batch, objective.wanted())
        given = jax.lax.stop_gradient(frozen) or ()
        # By this name a plan tells their part of the step from the student's.
        with jax.named_scope(TEACHERS):
            teachers = tuple(
                self._teacher(k, params, batch, objective.wanted(k))
                for k, params in enumerate(given)
            )
        return objective(student, teachers or None, progress)

    def _student(self, model: Any, batch: Batch, wanted: Wanted) -> Embeddings:
        """Return what the student says of a batch."""
        graph, params = _parted(model)
        fields = dict(wanted)

        def see(rows: Batch) -> dict[str, Array]:
            model = nnx.merge(graph, params)
            images = preprocess(rows["image"], self.student.vision)
            said = model.embed(images, rows["text"], wanted=wanted)
            if "masked_image" in fields:
                keep = kept_patches(rows["bits"], self.student.vision.num_patches)
                masked = model.encode_image(images, keep=keep)
                said = replace(said, masked_image=masked)
            return _as_rows(said)

        text = batch["text"]["student"]
        rows = {"image": batch["image"], "text": text}
        if "masked_image" in fields:
            rows["bits"] = batch["bits"]
        said = in_parts(see, rows, self.microbatch)
        return _of_rows(said, text_id=text_id(text) if "text_id" in fields else None)

    def _teacher(
        self, index: int, frozen: Params, batch: Batch, wanted: Wanted
    ) -> Embeddings:
        """Return what a teacher says of a batch, unless the batch carries it."""
        params = {k: v for k, v in frozen.items() if k != "calibrated_scale"}
        calibrated = frozen.get("calibrated_scale")
        if "teacher" in batch:
            return _of_rows(
                batch["teacher"][index],
                logit_scale=jnp.exp(params["logit_scale"]),
                logit_bias=params.get("logit_bias"),
                calibrated_scale=calibrated,
            )
        config = self.teachers[index]

        def see(rows: Batch) -> dict[str, Array]:
            model = nnx.merge(graph_of(CLIP, config), params)
            images = preprocess(rows["image"], config.vision)
            return _as_rows(model.embed(images, rows["text"], wanted=wanted))

        rows = {"image": batch["image"], "text": batch["text"][f"teacher_{index}"]}
        said = in_parts(see, rows, self.microbatch)
        return _of_rows(said, calibrated_scale=calibrated)


def text_id(ids: Int[Array, "B L"]) -> UInt32[Array, "B 2"]:
    """Return what is equal in rows of equal tokens, and hardly ever in others."""

    def of_one(ids: Array) -> Array:
        key, _ = jax.lax.scan(
            lambda key, token: (jax.random.fold_in(key, token), None),
            jax.random.key(0),
            ids,
        )
        return jax.random.key_data(key)

    return jax.vmap(of_one)(ids)


def _parted(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Return a model's structure and its parameters, which inner traces can take."""
    graph, state = nnx.split(model)
    return graph, nnx.to_pure_dict(state)


def _as_rows(embeddings: Embeddings) -> dict[str, Array]:
    """Return the fields that there are, with rows before layers."""
    there = {k: x for k, x in vars(embeddings).items() if x is not None}
    return {k: _turned(k, x) for k, x in there.items()}


def _of_rows(rows: Mapping[str, Array], **more: Any) -> Embeddings:
    """Return the embeddings of such fields, and of some more."""
    return Embeddings(**{k: _turned(k, x) for k, x in rows.items()}, **more)


def _turned(field: str, x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1) if field in LAYERED.values() else x


def num_kept(patches: int) -> int:
    """Return how many of an image's patches are left when it is masked."""
    return max(1, int(patches * (1 - MASKED)))


def kept_patches(bits: UInt32[Array, " B"], patches: int) -> Int[Array, "B K"]:
    """Return the places of the patches that are left of masked images.

    Args:
        bits: random bits of each image.
        patches: of an image.
    """
    kept = num_kept(patches)

    def of_one(bits: Array) -> Array:
        return jax.random.permutation(jax.random.key(bits), patches)[:kept]

    return jax.vmap(of_one)(bits)


@dataclass(frozen=True)
class VQATask:
    """A VQA model learns soft answer targets and, where there is one, from a teacher.

    Attributes:
        model: the trained model.
        objectives: of classes, names with their options, as sorted pairs.
        teacher: the frozen model, or None; its answers are the trained model's, in
            their order. Its parameters are the `frozen` of the step; where the batch
            carries its tokens those of its tower are not needed.
        microbatch: rows that are seen and answered at a time; 0 for all.
    """

    model: VQAConfig
    objectives: tuple[tuple[str, Options], ...]
    teacher: VQAConfig | None = None
    microbatch: int = 0

    def init(self, rngs: nnx.Rngs) -> Trained:
        """Return the model and the objective."""
        objective = build_objective(
            {name: dict(options) for name, options in self.objectives},
            student_width=0,
            teacher_width=0 if self.teacher else None,
            rngs=rngs,
        )
        return Trained(VQAModel(self.model, rngs=rngs), objective)

    def loss(
        self, trained: Any, frozen: Frozen, batch: Batch, progress: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Return the weighted sum of the objectives and each unweighted."""
        student = Embeddings.of_classes(
            self._answers("student", trained.model, batch),
            _by_question(batch["target"]),
            batch["mask"].reshape(-1).astype(jnp.float32),
        )
        with jax.named_scope(TEACHERS):
            teacher = self._teacher(jax.lax.stop_gradient(frozen), batch)
        return trained.objective(student, teacher, progress)

    def _teacher(self, frozen: Params | None, batch: Batch) -> Embeddings | None:
        """Return what the teacher answers to the questions of a batch."""
        if self.teacher is None or frozen is None:
            return None
        part = VQAModel if "vision" in frozen else answering_part
        model = nnx.merge(graph_of(part, self.teacher), frozen)
        return Embeddings.of_classes(self._answers("teacher", model, batch))

    def _answers(self, name: str, model: Any, batch: Batch) -> Float[Array, "R A"]:
        """Return a VQA model's logits for every question, padding included."""
        graph, params = _parted(model)

        def see(rows: Batch) -> Array:
            model = nnx.merge(graph, params)
            tokens = rows.get("tokens")
            if tokens is None:  # the batch does not carry what the tower sees
                images = preprocess(rows["image"], model.config.vision)
                tokens = model.vision(images).all_tokens
            return model.answer(tokens, rows["question"])

        carried = batch.get("tokens", {}).get(name)
        seen = {"image": batch["image"]} if carried is None else {"tokens": carried}
        rows = {**seen, "question": batch["question"][name]}
        return _by_question(in_parts(see, rows, self.microbatch))


def _by_question(rows: Float[Array, "B Q A"]) -> Float[Array, "R A"]:
    return rows.reshape(-1, rows.shape[-1])

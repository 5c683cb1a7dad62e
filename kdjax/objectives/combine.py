"""Several objectives as one module, with the parameters that they learn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives.registry import REGISTRY, Spec, expand

# ln(1 / 0.07), where CLIP-KD's released code starts the scale that it learns.
LEARNT_SCALE_INIT = 2.6592600369327783


class Projection(nnx.Module):
    """Takes a student's embeddings to the teacher's width, one head per modality."""

    def __init__(self, student: int, teacher: int, *, rngs: nnx.Rngs) -> None:
        def head() -> nnx.Linear:
            kernel = nnx.initializers.normal(student**-0.5)
            axes = ("embed_in", "embed_out")
            return nnx.Linear(
                student,
                teacher,
                kernel_init=nnx.with_partitioning(kernel, axes, eager_sharding=False),
                precision=jax.lax.Precision.HIGHEST,
                rngs=rngs,
            )

        self.image = head()
        self.text = head()

    def __call__(self, embeddings: Embeddings) -> Embeddings:
        """Return the embeddings with both modalities projected."""
        return dataclasses.replace(
            embeddings,
            image=self.image(embeddings.image),
            text=self.text(embeddings.text),
        )


class Objective(nnx.Module):
    """The weighted sum of objectives."""

    def __init__(
        self,
        spec: Spec,
        student_width: int,
        teacher_width: int | None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        chosen = expand(spec)
        entries = [REGISTRY[name] for name in chosen]
        # Tuples, because the graph definition is a static argument of a jitted step.
        self.spec = tuple((k, tuple(sorted(v.items()))) for k, v in chosen.items())
        if teacher_width is None:
            self._refuse_without_teacher()
        projected = any(entry.needs_projection for entry in entries)
        self.projection = nnx.data(
            Projection(student_width, teacher_width, rngs=rngs)
            if projected and teacher_width not in (None, student_width)
            else None
        )
        scaled = any(entry.learns_scale for entry in entries)
        self.scale = nnx.data(
            nnx.Param(jnp.float32(LEARNT_SCALE_INIT)) if scaled else None
        )

    def __call__(
        self, student: Embeddings, teacher: Embeddings | None = None
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return the weighted sum and each objective's unweighted value.

        Args:
            student: of the global batch; the only side that gets a gradient.
            teacher: of the same pairs; None where no objective needs one.

        Raises:
            UserError: an objective needs the teacher that is not given.
        """
        if teacher is None:
            self._refuse_without_teacher()
        frozen = jax.tree.map(jax.lax.stop_gradient, teacher)
        projected = self.projection(student) if self.projection else student
        terms: dict[str, Array] = {}
        total = jnp.float32(0)
        for name, pairs in self.spec:
            options = dict(pairs)
            weight = options.pop("weight")
            terms[name] = self._term(name, options, student, projected, frozen)
            total = total + weight * terms[name]
        return total, terms

    def _refuse_without_teacher(self) -> None:
        for name, _ in self.spec:
            if REGISTRY[name].needs_teacher:
                raise UserError(
                    f"objective {name} needs a teacher; give one, or leave {name} out"
                )

    def _term(
        self,
        name: str,
        options: dict[str, Any],
        student: Embeddings,
        projected: Embeddings,
        teacher: Embeddings | None,
    ) -> Array:
        entry = REGISTRY[name]
        if not entry.needs_teacher:
            return entry.function(student, **options)
        if entry.learns_scale:
            assert self.scale is not None
            scale = self.scale[...]
            form = options["scale"]
            options = {**options, "scale": jnp.exp(scale) if form == "exp" else scale}
        ours = projected if entry.needs_projection else student
        return entry.function(ours, teacher, **options)


def build_objective(
    spec: Spec,
    *,
    student_width: int,
    teacher_width: int | None = None,
    rngs: nnx.Rngs,
) -> Objective:
    """Return the module of a combination of objectives.

    Args:
        spec: objective -> options (`weight` among them), or a preset's name.
        student_width: of the student's embeddings.
        teacher_width: of the teacher's; None when there is no teacher.
        rngs: for the projection heads, which exist only when widths differ.

    Raises:
        UserError: an unknown name or option, a bad value, or a missing teacher.
    """
    return Objective(spec, student_width, teacher_width, rngs=rngs)

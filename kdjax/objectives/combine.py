"""Several objectives as one module, with the parameters that they learn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings, Wanted
from kdjax.errors import UserError
from kdjax.models.config import TransformerConfig
from kdjax.objectives.pairs import PairSum, evaluate
from kdjax.objectives.parts import Parts, learnt_bias
from kdjax.objectives.patches import Patches, build_patches, layers_of_student
from kdjax.objectives.registry import REGISTRY, Entry, Spec, expand
from kdjax.objectives.schedules import Scalar, Schedule, value_at


class Objective(nnx.Module):
    """The weighted sum of objectives.

    Attributes:
        parts: what is learnt of each teacher; there is one where there is no teacher.
        patches: what is learnt of each teacher's patches, where any are compared.
        bias: the student's logit bias, if one is learnt.
    """

    def __init__(
        self,
        spec: Spec,
        student_width: int,
        teacher_width: int | tuple[int, ...] | None,
        student_bias: bool,
        student_vision: TransformerConfig | None,
        teacher_vision: TransformerConfig | tuple[TransformerConfig, ...] | None,
        block_rows: int | None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        chosen = expand(spec)
        # Tuples, because the graph definition is a static argument of a jitted step.
        self.spec = tuple((k, tuple(sorted(v.items()))) for k, v in chosen.items())
        if teacher_width is None:
            self._refuse_without_teacher()
            teacher_width = student_width
        self.block_rows = block_rows
        learnt = {part for name in chosen for part in REGISTRY[name].learns}
        widths = teacher_width if isinstance(teacher_width, tuple) else (teacher_width,)
        self.parts = nnx.List(
            [Parts(learnt, student_width, width, rngs=rngs) for width in widths]
        )
        self.patches = nnx.List(
            build_patches(chosen, student_vision, teacher_vision, rngs=rngs)
        )
        self.bias = nnx.data(
            learnt_bias() if "bias" in learnt and not student_bias else None
        )

    def __call__(
        self,
        student: Embeddings,
        teacher: Embeddings | tuple[Embeddings, ...] | None = None,
        progress: Scalar | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return the weighted sum and each objective's unweighted value.

        Beside it, as `<name>_weight`, is a weight that a schedule gives.

        Args:
            student: of the global batch; the only side that gets a gradient.
            teacher: of the same pairs, or several; None where no objective needs one.
            progress: share of the steps already made, in [0, 1]; None for the start.

        Raises:
            UserError: an objective needs the teacher that is not given.
        """
        if teacher is None:
            self._refuse_without_teacher()
            teacher = ()
        given = (teacher,) if isinstance(teacher, Embeddings) else teacher
        frozen = jax.tree.map(jax.lax.stop_gradient, given)
        progress = 0.0 if progress is None else progress
        # Once for all, so that the gradients of several uses add up in float32 too.
        student = jax.tree.map(_in_float32, student)
        projected = [parts.project(student) for parts in self.parts]
        terms: dict[str, Any] = {}
        weights: dict[str, Scalar] = {}
        for name, pairs in self.spec:
            options = {key: value_at(value, progress) for key, value in pairs}
            weights[name] = options.pop("weight")
            sides = student, projected, frozen
            terms[name] = self._term(REGISTRY[name], options, *sides)
        sums = {name: x for name, x in terms.items() if isinstance(x, PairSum)}
        terms |= evaluate(sums, self.block_rows)
        total = sum((weights[name] * terms[name] for name in terms), jnp.float32(0))
        moving = [
            k for k, pairs in self.spec if isinstance(dict(pairs)["weight"], Schedule)
        ]
        terms |= {f"{name}_weight": weights[name] for name in moving}
        return total, terms

    def wanted(self, place: int | None = None) -> Wanted:
        """Return the fields that are needed beside image, text and scalars.

        Args:
            place: of one of the teachers; None for the student.
        """
        if place is not None:
            return self.patches[place].wanted() if self.patches else ()
        layers = layers_of_student(self.patches)
        fields = {x for name, pairs in self.spec for x in _needed(name, dict(pairs))}
        return tuple((field, layers.get(field, ())) for field in sorted(fields))

    def _refuse_without_teacher(self) -> None:
        for name, _ in self.spec:
            if REGISTRY[name].needs_teacher:
                raise UserError(
                    f"objective {name} needs a teacher; give one, or leave {name} out"
                )

    def _term(
        self,
        entry: Entry,
        options: dict[str, Any],
        student: Embeddings,
        projected: Sequence[Embeddings],
        teachers: Sequence[Embeddings],
    ) -> Array | PairSum:
        """Return an objective's value; `projected` is the student for each teacher."""
        if entry.by_rows:
            options["block_rows"] = self.block_rows
        if "bias" in entry.learns and self.bias is not None:
            student = replace(student, logit_bias=self.bias[...])
        if not entry.needs_teacher:
            return entry.function(student, **options)
        if entry.takes_all:
            return entry.function(student, teachers, **options)
        patches = self.patches or [None] * len(teachers)
        present = layers_of_student(self.patches)
        own = projected if "projection" in entry.learns else [student] * len(teachers)
        values = [
            _against(entry, options, present, *of_one)
            for of_one in zip(own, teachers, self.parts, patches, strict=True)
        ]
        return sum(values[1:], start=values[0]) / len(values)


def _against(
    entry: Entry,
    options: dict[str, Any],
    present: Mapping[str, Sequence[int]],
    student: Embeddings,
    teacher: Embeddings,
    parts: Parts,
    patches: Patches | None,
) -> Array | PairSum:
    """Return an objective's value against one teacher, with what is learnt of it."""
    learnt: dict[str, Any] = {}
    if patches is not None:
        student, teacher = patches.compared(student, teacher, entry.needs, present)
        options = {k: v for k, v in options.items() if k != "layers"}
        learnt |= {"adaptor": patches.tokens} if "tokens" in entry.learns else {}
        learnt |= {"adaptors": patches.hidden} if "hidden" in entry.learns else {}
    if "basis" in entry.learns:
        learnt["basis"] = parts.basis
    if "scale" in entry.learns:
        assert parts.scale is not None
        learnt["scale"] = _in_form(parts.scale, options["scale"])
    if "fusion" in entry.learns:
        assert parts.fusion is not None
        learnt["scale"] = _in_form(parts.fusion.scale, options["scale"])
        learnt["fusion"] = parts.fusion
    return entry.function(student, teacher, **{**options, **learnt})


def _needed(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields that an objective with these options reads of the student."""
    alike = options.get("duplicates", "negative") != "negative"
    return REGISTRY[name].needs + (("text_id",) if alike else ())


def _in_float32(x: Array) -> Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _in_form(scale: nnx.Param, form: str) -> Array:
    """Return a learnt scale as it is used: as it is ("raw"), or its exponential."""
    return jnp.exp(scale[...]) if form == "exp" else scale[...]


def build_objective(
    spec: Spec,
    *,
    student_width: int,
    teacher_width: int | tuple[int, ...] | None = None,
    student_bias: bool = False,
    student_vision: TransformerConfig | None = None,
    teacher_vision: TransformerConfig | tuple[TransformerConfig, ...] | None = None,
    block_rows: int | None = None,
    rngs: nnx.Rngs,
) -> Objective:
    """Return the module of a combination of objectives.

    Args:
        spec: objective -> options (`weight` among them), or a preset's name.
        student_width: of the student's embeddings.
        teacher_width: of the teacher's, or of each of several; None without a teacher.
        student_bias: whether the student has a logit bias; if not, an objective that
            needs one learns it.
        student_vision: config of the student's vision tower, for objectives that
            compare patches or layers.
        teacher_vision: of the teacher's, or of each of several.
        block_rows: of all pairs, how many rows at a time are gone through; None for
            what suits the batch.
        rngs: for what objectives learn, such as heads where widths differ.

    Raises:
        UserError: an unknown name or option, a bad value, or a missing teacher.
    """
    return Objective(
        spec,
        student_width,
        teacher_width,
        student_bias,
        student_vision,
        teacher_vision,
        block_rows,
        rngs=rngs,
    )

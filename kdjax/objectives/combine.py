"""Several objectives as one module, with the parameters that they learn."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives.parts import Parts, learnt_bias
from kdjax.objectives.registry import REGISTRY, Entry, Spec, expand


class Objective(nnx.Module):
    """The weighted sum of objectives.

    Attributes:
        needs: fields of the student's embeddings beside image, text and scalars.
        parts: what is learnt of each teacher; there is one where there is no teacher.
        bias: the student's logit bias, if one is learnt.
    """

    def __init__(
        self,
        spec: Spec,
        student_width: int,
        teacher_width: int | tuple[int, ...] | None,
        student_bias: bool,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        chosen = expand(spec)
        # Tuples, because the graph definition is a static argument of a jitted step.
        self.spec = tuple((k, tuple(sorted(v.items()))) for k, v in chosen.items())
        if teacher_width is None:
            self._refuse_without_teacher()
            teacher_width = student_width
        self.needs = frozenset(x for name in chosen for x in REGISTRY[name].needs)
        learnt = {part for name in chosen for part in REGISTRY[name].learns}
        widths = teacher_width if isinstance(teacher_width, tuple) else (teacher_width,)
        self.parts = nnx.List(
            [Parts(learnt, student_width, width, rngs=rngs) for width in widths]
        )
        self.bias = nnx.data(
            learnt_bias() if "bias" in learnt and not student_bias else None
        )

    def __call__(
        self,
        student: Embeddings,
        teacher: Embeddings | tuple[Embeddings, ...] | None = None,
        progress: Float[Array, ""] | float | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Return the weighted sum and each objective's unweighted value.

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
        # Once for all, so that the gradients of several uses add up in float32 too.
        student = jax.tree.map(lambda x: x.astype(jnp.float32), student)
        terms: dict[str, Array] = {}
        total = jnp.float32(0)
        for name, pairs in self.spec:
            options = dict(pairs)
            weight = options.pop("weight")
            terms[name] = self._term(REGISTRY[name], options, student, frozen)
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
        entry: Entry,
        options: dict[str, Any],
        student: Embeddings,
        teachers: tuple[Embeddings, ...],
    ) -> Array:
        if "bias" in entry.learns and self.bias is not None:
            student = replace(student, logit_bias=self.bias[...])
        if not entry.needs_teacher:
            return entry.function(student, **options)
        if entry.takes_all:
            return entry.function(student, teachers, **options)
        values = [
            _against(entry, options, student, teacher, parts)
            for teacher, parts in zip(teachers, self.parts, strict=True)
        ]
        return sum(values[1:], start=values[0]) / len(values)


def _against(
    entry: Entry,
    options: dict[str, Any],
    student: Embeddings,
    teacher: Embeddings,
    parts: Parts,
) -> Array:
    """Return an objective's value against one teacher, with what is learnt of it."""
    learnt: dict[str, Any] = {}
    if "projection" in entry.learns and parts.projection is not None:
        student = parts.projection(student)
    if "scale" in entry.learns:
        assert parts.scale is not None
        learnt["scale"] = _in_form(parts.scale, options["scale"])
    if "fusion" in entry.learns:
        assert parts.fusion is not None
        learnt["scale"] = _in_form(parts.fusion.scale, options["scale"])
        learnt["fusion"] = parts.fusion
    return entry.function(student, teacher, **{**options, **learnt})


def _in_form(scale: nnx.Param, form: str) -> Array:
    """Return a learnt scale as it is used: as it is ("raw"), or its exponential."""
    return jnp.exp(scale[...]) if form == "exp" else scale[...]


def build_objective(
    spec: Spec,
    *,
    student_width: int,
    teacher_width: int | tuple[int, ...] | None = None,
    student_bias: bool = False,
    rngs: nnx.Rngs,
) -> Objective:
    """Return the module of a combination of objectives.

    Args:
        spec: objective -> options (`weight` among them), or a preset's name.
        student_width: of the student's embeddings.
        teacher_width: of the teacher's, or of each of several; None without a teacher.
        student_bias: whether the student has a logit bias; if not, an objective that
            needs one learns it.
        rngs: for what objectives learn, such as heads where widths differ.

    Raises:
        UserError: an unknown name or option, a bad value, or a missing teacher.
    """
    return Objective(spec, student_width, teacher_width, student_bias, rngs=rngs)

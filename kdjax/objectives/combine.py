"""Several objectives as one module, with the parameters that they learn."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives.pairs import PairSum, evaluate
from kdjax.objectives.parts import Fusion, Heads, learnt_bias, learnt_scale
from kdjax.objectives.registry import REGISTRY, Spec, expand


class Objective(nnx.Module):
    """The weighted sum of objectives.

    Attributes:
        needs_masked_image: whether the student must embed masked images too.
    """

    def __init__(
        self,
        spec: Spec,
        student_width: int,
        teacher_width: int | None,
        student_bias: bool,
        block_rows: int | None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        chosen = expand(spec)
        # Tuples, because the graph definition is a static argument of a jitted step.
        self.spec = tuple((k, tuple(sorted(v.items()))) for k, v in chosen.items())
        if teacher_width is None:
            self._refuse_without_teacher()
        self.block_rows = block_rows
        self.needs_masked_image = any(REGISTRY[k].needs_masked_image for k in chosen)
        learnt = {part for name in chosen for part in REGISTRY[name].learns}
        width = student_width if teacher_width is None else teacher_width
        self.projection = nnx.data(
            Heads(student_width, width, rngs=rngs)
            if "projection" in learnt and width != student_width
            else None
        )
        self.fusion = nnx.data(
            Fusion(student_width, width, rngs=rngs) if "fusion" in learnt else None
        )
        self.scale = nnx.data(learnt_scale() if "scale" in learnt else None)
        self.bias = nnx.data(
            learnt_bias() if "bias" in learnt and not student_bias else None
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
        # Once for all, so that the gradients of several uses add up in float32 too.
        student = jax.tree.map(_in_float32, student)
        projected = student if self.projection is None else self.projection(student)
        found = {
            name: self._term(
                name,
                dict(options),
                projected if "projection" in REGISTRY[name].learns else student,
                frozen,
            )
            for name, options in self.spec
        }
        sums = {k: x for k, x in found.items() if isinstance(x, PairSum)}
        values: dict[str, Any] = found | evaluate(sums, self.block_rows)
        total = sum(
            (dict(options)["weight"] * values[name] for name, options in self.spec),
            jnp.float32(0),
        )
        return total, values

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
        teacher: Embeddings | None,
    ) -> Array | PairSum:
        entry = REGISTRY[name]
        del options["weight"]
        if "bias" in entry.learns and self.bias is not None:
            student = replace(student, logit_bias=self.bias[...])
        if "scale" in entry.learns:
            assert self.scale is not None
            options["scale"] = _in_form(self.scale, options["scale"])
        if "fusion" in entry.learns:
            assert self.fusion is not None
            options["scale"] = _in_form(self.fusion.scale, options["scale"])
            options["fusion"] = self.fusion
        if entry.by_rows:
            options["block_rows"] = self.block_rows
        given = (student, teacher) if entry.needs_teacher else (student,)
        return entry.function(*given, **options)


def _in_float32(x: Array) -> Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _in_form(scale: nnx.Param, form: str) -> Array:
    """Return a learnt scale as it is used: as it is ("raw"), or its exponential."""
    return jnp.exp(scale[...]) if form == "exp" else scale[...]


def build_objective(
    spec: Spec,
    *,
    student_width: int,
    teacher_width: int | None = None,
    student_bias: bool = False,
    block_rows: int | None = None,
    rngs: nnx.Rngs,
) -> Objective:
    """Return the module of a combination of objectives.

    Args:
        spec: objective -> options (`weight` among them), or a preset's name.
        student_width: of the student's embeddings.
        teacher_width: of the teacher's; None when there is no teacher.
        student_bias: whether the student has a logit bias; if not, an objective that
            needs one learns it.
        block_rows: of all pairs, how many rows at a time are gone through; None for
            what suits the batch.
        rngs: for what objectives learn, such as heads where widths differ.

    Raises:
        UserError: an unknown name or option, a bad value, or a missing teacher.
    """
    return Objective(
        spec, student_width, teacher_width, student_bias, block_rows, rngs=rngs
    )

"""What objectives learn beside the student; each part is there once for all."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax.embeddings import Embeddings
from kdjax.objectives.adaptors import Basis

# ln(1 / 0.07), where CLIP-KD's released code starts the scales that it learns.
LEARNT_SCALE_INIT = 2.6592600369327783
# Where SigLIP starts, since nearly all pairs are none (Zhai 2023, section 3.2).
LEARNT_BIAS_INIT = -10.0


class Heads(nnx.Module):
    """A linear map of images and another of texts."""

    def __init__(self, in_width: int, out_width: int, *, rngs: nnx.Rngs) -> None:
        def head() -> nnx.Linear:
            kernel = nnx.initializers.normal(in_width**-0.5)
            axes = ("embed", "joint")
            return nnx.Linear(
                in_width,
                out_width,
                kernel_init=nnx.with_partitioning(kernel, axes, eager_sharding=False),
                precision=jax.lax.Precision.HIGHEST,
                rngs=rngs,
            )

        self.image = head()
        self.text = head()

    def __call__(self, embeddings: Embeddings) -> Embeddings:
        """Return the embeddings with both modalities mapped."""
        masked = embeddings.masked_image
        return dataclasses.replace(
            embeddings,
            image=self.image(embeddings.image),
            text=self.text(embeddings.text),
            masked_image=None if masked is None else self.image(masked),
        )


class Fusion(Heads):
    """Maps the student's and the teacher's embeddings, side by side; has a scale."""

    def __init__(self, student: int, teacher: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(student + teacher, student, rngs=rngs)
        self.scale = learnt_scale()


class Parts(nnx.Module):
    """What there is of one teacher: heads, fusion heads, a scale, a basis; or None."""

    def __init__(
        self,
        learnt: Collection[str],
        student_width: int,
        teacher_width: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.projection = nnx.data(
            Heads(student_width, teacher_width, rngs=rngs)
            if "projection" in learnt and teacher_width != student_width
            else None
        )
        self.fusion = nnx.data(
            Fusion(student_width, teacher_width, rngs=rngs)
            if "fusion" in learnt
            else None
        )
        self.scale = nnx.data(learnt_scale() if "scale" in learnt else None)
        self.basis = nnx.data(Basis(teacher_width) if "basis" in learnt else None)

    def project(self, student: Embeddings) -> Embeddings:
        """Return the student in the teacher's width."""
        return student if self.projection is None else self.projection(student)


def learnt_scale() -> nnx.Param:
    """Return a fresh logit scale."""
    return nnx.Param(jnp.float32(LEARNT_SCALE_INIT))


def learnt_bias() -> nnx.Param:
    """Return a fresh logit bias."""
    return nnx.Param(jnp.float32(LEARNT_BIAS_INIT))

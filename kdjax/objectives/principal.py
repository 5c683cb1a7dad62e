"""What most of a teacher's variance says, before the rest."""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.adaptors import Basis, Rotation
from kdjax.objectives.clip_kd import fd_loss
from kdjax.objectives.cosines import normalize
from kdjax.objectives.schedules import Scalar


def principal_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    basis: Basis,
    components: Scalar = 1.0,
) -> Float[Array, ""]:
    """Return `fd_loss` within the teacher's k leading principal directions.

    With the mean m and the directions U_k of the teacher's n(I'), both sides become
    (n(x) - m) U_k; the student's P I and its texts likewise. With m = 0 and all of the
    directions it is `fd_loss`. k does not change shapes, so it may be scheduled.

    Args:
        student: image and text [B, D], projected to the teacher's width.
        teacher: image and text [B, D].
        basis: m and all of U, of images and of texts.
        components: k as a share of D, rounded; at least one direction is taken.
    """
    width = teacher.image.shape[-1]
    taken = jnp.arange(width) < jnp.round(components * width).clip(1)

    def leading(rows: Array, rotation: Rotation) -> Array:
        return jnp.where(taken, rotation(normalize(rows)), 0.0)

    ours, theirs = (
        replace(
            side,
            image=leading(side.image, basis.image),
            text=leading(side.text, basis.text),
        )
        for side in (student, teacher)
    )
    return fd_loss(ours, theirs)

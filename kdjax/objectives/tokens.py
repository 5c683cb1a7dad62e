"""What a student's patches say, after the last layer and between layers."""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.adaptors import Adaptor
from kdjax.objectives.cosines import normalize
from kdjax.objectives.divergence import huber
from kdjax.objectives.grids import patch_tokens, resample


def tokens_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    adaptor: Adaptor,
    form: str = "radio",
    cosine: float = 0.9,
    smooth_l1: float = 0.1,
) -> Float[Array, ""]:
    """Return how far adapted patch tokens A(Z) are from the teacher's Z'.

    The student's tokens are resampled to the teacher's grid, so that the targets are
    the teacher's own, and then adapted to its width.

    Args:
        student: image_tokens [B, N, Ws].
        teacher: image_tokens [B, M, Wt].
        adaptor: the learnt A, and what standardises Z'.
        form: "radio", a (1 - cos) + b smooth-L1 with its bend at 1 (AM-RADIO, Ranzinger
            2024, arXiv:2312.06709), a mean over tokens, of the latter over the width
            too; "phi_s", the mean squared error of standardised tokens (PHI-S,
            Ranzinger 2024, arXiv:2410.01680).
        cosine: a.
        smooth_l1: b.
    """
    assert student.image_tokens is not None and teacher.image_tokens is not None
    said = student.image_tokens.astype(jnp.float32)
    target = teacher.image_tokens.astype(jnp.float32)
    adapted = adaptor(resample(said, target.shape[1]))
    if form == "phi_s":
        assert adaptor.standard is not None
        return jnp.mean((adapted - adaptor.standard(target)) ** 2)
    alike = jnp.sum(normalize(adapted) * normalize(target), axis=-1)
    far = huber(adapted, target)
    return cosine * jnp.mean(1 - alike) + smooth_l1 * jnp.mean(far)


def hidden_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    adaptors: Sequence[Adaptor],
    form: str = "radio",
    cosine: float = 0.9,
    smooth_l1: float = 0.1,
) -> Float[Array, ""]:
    """Return the mean over pairs of layers of `tokens_loss` of their patches.

    FitNets (Romero 2015, arXiv:1412.6550) and followers: hidden states are to match,
    each pair of layers through an adaptor of its own. Class tokens are left out.

    Args:
        student: image_hidden [pairs, B, M, Ws], of the layers of the pairs.
        teacher: image_hidden [pairs, B, M', Wt].
        adaptors: of the pairs.
        form: as of `tokens_loss`.
        cosine: as of `tokens_loss`.
        smooth_l1: as of `tokens_loss`.
    """
    assert student.image_hidden is not None and teacher.image_hidden is not None
    pairs = zip(student.image_hidden, teacher.image_hidden, adaptors, strict=True)
    terms = [
        tokens_loss(
            replace(student, image_tokens=patch_tokens(ours)),
            replace(teacher, image_tokens=patch_tokens(theirs)),
            adaptor=adaptor,
            form=form,
            cosine=cosine,
            smooth_l1=smooth_l1,
        )
        for ours, theirs, adaptor in pairs
    ]
    return jnp.mean(jnp.stack(terms))

"""Patches of one square grid as those of another."""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

X = TypeVar("X", Array, np.ndarray)


def is_square(count: int) -> bool:
    """Return whether so many patches are a square grid."""
    return math.isqrt(count) ** 2 == count


def patch_tokens(x: X, axes: Sequence[int] = (-2,)) -> X:
    """Return tokens without the class token, which comes first where there is one.

    Args:
        x: [..., M, W], or maps [..., M, M].
        axes: of the tokens, counted from the last.
    """
    if is_square(x.shape[axes[0]]):
        return x
    return x[tuple(slice(int(axis in axes), None) for axis in range(-x.ndim, 0))]


def resample(x: Float[Array, "B N W"], patches: int) -> Float[Array, "B M W"]:
    """Return patch tokens on a grid of so many, bilinear and antialiased."""
    if x.shape[1] == patches:
        return x
    weights = resampling(x.shape[1], patches)
    return jnp.einsum("mn,bnw->bmw", weights, x, precision=jax.lax.Precision.HIGHEST)


def resampling(patches: int, to: int) -> Float[Array, "M N"]:
    """Return the weights of a grid's patches in those of another; a row sums to one."""
    side, new = math.isqrt(patches), math.isqrt(to)
    each = jnp.eye(patches).reshape(side, side, patches)
    mixed = jax.image.resize(each, (new, new, patches), "linear", antialias=True)
    return mixed.reshape(to, patches)

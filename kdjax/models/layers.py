"""Layers that compute in one dtype and learn in another.

A parameter's gradient is a sum over the rows of a batch, and over the devices that have
them. It is taken in the parameter's own dtype, whatever the layer computes in: in
bfloat16 a sum stops growing at 256 equal terms. It is taken backward alone (`jax.grad`,
`jax.vjp`): a model has no forward-mode derivative.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from kdjax.parallel import by_rows, whole_rows


def partitioned(
    initializer: Callable[..., Array], *axes: str | None, heads: int | None = None
) -> Any:
    """Return the initializer with logical axis names for the sharding table.

    Args:
        initializer: of a parameter.
        axes: a name for each of its dimensions.
        heads: of attention, that make up the axis of that name.
    """
    return nnx.with_partitioning(initializer, axes, eager_sharding=False, heads=heads)


def positions(embedding: Float[Array, "N W"]) -> nnx.Param:
    """Return a position embedding as a parameter."""
    axes = ("position", "embed")
    return nnx.Param(embedding, out_sharding=axes, eager_sharding=False)


def add_positions(
    x: Float[Array, "*rows N W"], embedding: Float[Array, "N W"]
) -> Float[Array, "*rows N W"]:
    """Return tokens with an embedding of their places added, in the tokens' dtype."""
    return (x + embedding).astype(x.dtype)


def repeated(
    vector: Float[Array, " W"], like: Float[Array, "B N W"]
) -> Float[Array, "B 1 W"]:
    """Return a learnt token for every row, in the dtype of the tokens it goes with."""
    return jnp.broadcast_to(vector, (like.shape[0], 1, *vector.shape)).astype(
        like.dtype
    )


class Linear(nnx.Module):
    """A linear map of the last axis."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        axes: tuple[str, str],
        dtypes: dict[str, Any],
        rngs: nnx.Rngs,
        use_bias: bool = True,
        heads: int | None = None,
    ) -> None:
        """Make a kernel [in_width, out_width] whose dimensions have logical `axes`."""
        self.dtype, learns = dtypes["dtype"], dtypes["param_dtype"]
        normal = nnx.initializers.normal(in_width**-0.5)
        kernel = partitioned(normal, *axes, heads=heads)
        self.kernel = nnx.Param(kernel(rngs.params(), (in_width, out_width), learns))
        bias = partitioned(nnx.initializers.zeros_init(), axes[1], heads=heads)
        self.bias = nnx.data(
            nnx.Param(bias(rngs.params(), (out_width,), learns)) if use_bias else None
        )

    def __call__(self, x: Float[Array, "*rows N"]) -> Float[Array, "*rows M"]:
        """Return the mapped rows, in the dtype that the layer computes in."""
        y = product(x.astype(self.dtype), self.kernel[...])
        return y if self.bias is None else (y + self.bias[...]).astype(self.dtype)


def product(
    x: Float[Array, "*rows N"], kernel: Float[Array, "N M"]
) -> Float[Array, "*rows M"]:
    """Return x @ kernel in the dtype of `x`, whose kernel learns in its own."""
    return _product(kernel.dtype, x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(learns: Any, x: Array, kernel: Array) -> Array:
    return x @ kernel.astype(x.dtype)


def _kept(learns: Any, x: Any, kernel: Any) -> tuple[Array, tuple[Any, Any]]:
    """Return the product, and what the gradients that are asked for take."""
    kept = (
        x.value if kernel.perturbed else None,
        kernel.value if x.perturbed else None,
    )
    # Not by `_product` itself, into which the policies of remat do not look.
    return x.value @ kernel.value.astype(x.value.dtype), kept


def _gradients(learns: Any, kept: tuple[Any, Any], told: Array) -> tuple[Any, Any]:
    """Return the gradients of a product's rows and kernel, from that of the result."""
    x, kernel = kept
    rows = tuple(range(told.ndim - 1))
    of_x = None if kernel is None else told @ kernel.astype(told.dtype).T
    of_kernel = (
        None
        if x is None
        else lax.dot_general(
            x, told, ((rows, rows), ((), ())), preferred_element_type=learns
        )
    )
    return of_x, of_kernel


_product.defvjp(_kept, _gradients, symbolic_zeros=True)


class Embed(nnx.Module):
    """Rows of a table by their number."""

    def __init__(
        self,
        count: int,
        width: int,
        deviation: float,
        dtypes: dict[str, Any],
        rngs: nnx.Rngs,
    ) -> None:
        """Make a table [count, width] of numbers with a standard deviation."""
        self.dtype = dtypes["dtype"]
        table = partitioned(nnx.initializers.normal(deviation), "vocab", "embed")
        self.embedding = nnx.Param(
            table(rngs.params(), (count, width), dtypes["param_dtype"])
        )

    def __call__(self, ids: Int[Array, "*rows"]) -> Float[Array, "*rows W"]:
        """Return the rows, in the dtype that the layer computes in."""
        table = whole_rows(self.embedding[...])
        return by_rows(jnp.take(table, ids, axis=0)).astype(self.dtype)


def norm(
    width: int, dtypes: dict[str, Any], rngs: nnx.Rngs, epsilon: float = 1e-6
) -> nnx.LayerNorm:
    """Return a layer norm, which sums in float32 whatever it computes in."""
    return nnx.LayerNorm(
        width, epsilon=epsilon, promote_dtype=_inputs, **dtypes, rngs=rngs
    )


def _inputs(arrays: Any, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Return a layer's inputs in its dtype, and its parameters in their own."""
    inputs, *parameters = arrays
    return inputs.astype(dtype), *parameters

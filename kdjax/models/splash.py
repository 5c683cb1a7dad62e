"""Attention by the fused kernel of TPUs, at lengths that do not fill its tiles."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from kdjax.parallel import BATCH_AXES, row_shares

TILE = 128


def splash_attention(
    query: Float[Array, "B N H D"],
    key: Float[Array, "B N H D"],
    value: Float[Array, "B N H D"],
    seen: Bool[Array, "B N"] | None = None,
    *,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B N H D"]:
    """Return what queries attend to among as many keys, with a gradient.

    Args:
        query: of all heads.
        key: likewise.
        value: likewise.
        seen: keys that are attended to; None for all.
        causal: whether a query sees only the keys up to its own place.
        interpret: whether the kernel is interpreted, for machines without a TPU.
    """
    # It is heavy to import, and for TPUs alone.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, length, heads, width = query.shape
    added = -length % TILE
    if seen is None:
        seen = jnp.ones((batch, length), bool)

    def by_head(x: Float[Array, "B N H D"]) -> Float[Array, "B H M D"]:
        return jnp.pad(x, ((0, 0), (0, added), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    whole = (length + added,) * 2
    mask = splash.CausalMask(whole) if causal else splash.FullMask(whole)
    kernel = splash.make_splash_mha(
        mask=splash.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # Keys of another segment than the queries', as padding is, are not seen.
    segments = splash.SegmentIds(
        q=jnp.ones((batch, length + added), jnp.int32),
        kv=jnp.pad(seen, ((0, 0), (0, added))).astype(jnp.int32),
    )
    attended = jax.vmap(kernel)(
        by_head(query * width**-0.5), by_head(key), by_head(value), segments
    )
    return attended.transpose(0, 2, 1, 3)[:, :length].astype(query.dtype)


def splits(query: Float[Array, "B N H D"]) -> PartitionSpec | None:
    """Return how rows and heads lie on the mesh of JAX's context.

    None where there is no mesh, as outside of a step, or it does not divide the rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if "tensor" not in mesh.axis_names or query.shape[0] % row_shares(mesh):
        return None
    heads = "tensor" if query.shape[2] % mesh.shape["tensor"] == 0 else None
    return PartitionSpec(BATCH_AXES, None, heads)


def on_mesh(
    query: Float[Array, "B N H D"],
    key: Float[Array, "B N H D"],
    value: Float[Array, "B N H D"],
    seen: Bool[Array, "B N"],
    split: PartitionSpec,
    *,
    causal: bool,
    interpret: bool = False,
) -> Float[Array, "B N H D"]:
    """Return `splash_attention` of each device's rows and heads; nothing is sent."""
    attend = functools.partial(splash_attention, causal=causal, interpret=interpret)
    return jax.shard_map(
        attend,
        in_specs=(split, split, split, PartitionSpec(BATCH_AXES)),
        out_specs=split,
        check_vma=False,
    )(query, key, value, seen)

"""Pre-norm transformer blocks, stacked and scanned."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from kdjax.models.config import Kernel, Remat, TransformerConfig
from kdjax.models.layers import Linear, norm
from kdjax.models.splash import on_mesh, splits
from kdjax.parallel import by_rows


class Trace(NamedTuple):
    """What a transformer shows of itself, stacked over the layers that were asked for.

    Attributes:
        hidden: [layers, B, N, W], the residual stream after every block.
        attention: [layers, B, H, N, N], attention maps.
    """

    hidden: Float[Array, "layers B N W"] | None
    attention: Float[Array, "layers B H N N"] | None


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


def keeping_slope(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return an activation that keeps one array for its gradient: its own slope.

    JAX would keep whatever the derivative of each of its parts needs, which for GELU is
    four arrays of every layer.
    """
    activation = jax.custom_jvp(function)

    @activation.defjvp
    def jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (x,), (moved,) = primals, tangents
        y, slope = jax.jvp(function, (x,), (jnp.ones_like(x),))
        return y, slope * moved

    return activation


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": keeping_slope(quick_gelu),
    "gelu": keeping_slope(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": keeping_slope(lambda x: jax.nn.gelu(x, approximate=True)),
}


# What of a block is kept for its gradient. Of "dots" it is what linear maps say, and no
# products with batch dimensions: attention's are large, and cheap to compute again.
KEPT: dict[Remat, Callable[..., bool]] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


# Up to here an unrolled scan compiles as fast as a loop and is faster on CPUs.
SHORT = 2


def short_stack(layers: int) -> bool:
    """Return whether a stack of blocks is better unrolled than looped over."""
    return layers <= SHORT


class Attention(nnx.Module):
    """Multi-head attention of queries over a context (the queries' own by default)."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        kernel: Kernel,
        *,
        dtypes: dict[str, Any],
        rngs: nnx.Rngs,
    ) -> None:
        self.num_heads = num_heads
        self.kernel = kernel

        def layer(into: str, out: str) -> Linear:
            return Linear(width, width, (into, out), dtypes, rngs, heads=num_heads)

        self.query = layer("embed", "heads")
        self.key = layer("embed", "heads")
        self.value = layer("embed", "heads")
        self.out = layer("heads", "embed")

    def __call__(
        self,
        x: Float[Array, "B N W"],
        context: Float[Array, "B M W"] | None = None,
        mask: Bool[Array, "#B 1 #N M"] | None = None,
        with_map: bool = False,
        causal: bool = False,
    ) -> tuple[Float[Array, "B N W"], Float[Array, "B H N M"] | None]:
        """Return the attended queries, and the attention map when asked for it.

        Args:
            x: queries.
            context: what they look at; None for themselves.
            mask: what each may look at.
            with_map: whether the map is wanted.
            causal: whether each may only look at those up to its own place.
        """
        context = x if context is None else context

        def heads(y: Float[Array, "B L W"]) -> Float[Array, "B L H D"]:
            return y.reshape(*y.shape[:2], self.num_heads, -1)

        query, key = heads(self.query(x)), heads(self.key(context))
        value = heads(self.value(context))
        attended = _attended(query, key, value, mask, causal, self.kernel)
        attention = _attention_map(query, key, mask, causal) if with_map else None
        return self.out(attended.reshape(x.shape)), attention


def _attended(
    query: Float[Array, "B N H D"],
    key: Float[Array, "B M H D"],
    value: Float[Array, "B M H D"],
    mask: Bool[Array, "#B 1 #N M"] | None,
    causal: bool,
    kernel: Kernel,
) -> Float[Array, "B N H D"]:
    """Return what queries attend to, by a kernel, or by XLA where splash cannot."""
    if kernel != "splash":
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, is_causal=causal, implementation=kernel
        )
    split = splits(query)
    same_for_all = mask is None or mask.shape[2] == 1
    if split is None or key.shape != query.shape or not same_for_all:
        return _attended(query, key, value, mask, causal, "xla")
    rows = query.shape[:2]
    seen = (
        jnp.ones(rows, bool) if mask is None else jnp.broadcast_to(mask[:, 0, 0], rows)
    )
    return on_mesh(query, key, value, seen, split, causal=causal)


def _attention_map(
    query: Float[Array, "B N H D"],
    key: Float[Array, "B M H D"],
    mask: Bool[Array, "#B 1 #N M"] | None,
    causal: bool,
) -> Float[Array, "B H N M"]:
    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key) * query.shape[-1] ** -0.5
    logits = logits.astype(jnp.float32)
    if causal:
        past = jnp.tril(jnp.ones(logits.shape[2:], bool))
        mask = past if mask is None else mask & past
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(logits)


class Mlp(nnx.Module):
    """Two linear layers with an activation between."""

    def __init__(
        self,
        width: int,
        mlp_width: int,
        activation: str,
        *,
        dtypes: dict[str, Any],
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        self.up = Linear(width, mlp_width, ("embed", "mlp"), dtypes, rngs)
        self.down = Linear(mlp_width, width, ("mlp", "embed"), dtypes, rngs)

    def __call__(self, x: Float[Array, "B N W"]) -> Float[Array, "B N W"]:
        """Return the transformed tokens."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(
        self, config: TransformerConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        self.attention_norm = norm(config.width, dtypes, rngs, config.norm_epsilon)
        self.attention = Attention(
            config.width, config.num_heads, config.attention, dtypes=dtypes, rngs=rngs
        )
        self.mlp_norm = norm(config.width, dtypes, rngs, config.norm_epsilon)
        self.mlp = Mlp(
            config.width, config.mlp_width, config.activation, dtypes=dtypes, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "B N W"],
        mask: Bool[Array, "#B 1 #N N"] | None = None,
        with_map: bool = False,
        causal: bool = False,
    ) -> tuple[Float[Array, "B N W"], Float[Array, "B H N N"] | None]:
        """Return the next residual stream and, when asked, the attention map."""
        x = by_rows(x)
        attended, attention = self.attention(
            self.attention_norm(x), mask=mask, with_map=with_map, causal=causal
        )
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), attention


class Transformer(nnx.Module):
    """Blocks stacked along a leading `layers` axis and run by one scan.

    So the time to compile does not grow with depth.
    """

    def __init__(
        self, config: TransformerConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, dtypes=dtypes, rngs=rngs)

        self.blocks = stack(rngs)
        self.layers = config.layers
        self.remat = config.remat

    def __call__(
        self,
        x: Float[Array, "B N W"],
        mask: Bool[Array, "#B 1 #N N"] | None = None,
        *,
        causal: bool = False,
        hidden: Sequence[int] = (),
        attention: Sequence[int] = (),
    ) -> tuple[Float[Array, "B N W"], Trace]:
        """Return the last residual stream, and a trace of these layers, from 0."""
        unrolled = short_stack(self.layers)

        def step(x: Array, block: Block) -> tuple[Array, Trace]:
            x, attended = block(x, mask, bool(attention), causal)
            return x, Trace(x if hidden else None, attended)

        if self.remat in KEPT:
            # Inside a loop nothing could merge what is computed twice.
            step = nnx.remat(step, policy=KEPT[self.remat], prevent_cse=unrolled)
        scan = nnx.scan(
            step,
            in_axes=(nnx.Carry, 0),
            out_axes=(nnx.Carry, 0),
            unroll=unrolled,
        )
        x, trace = scan(x, self.blocks)
        return x, Trace(_of(trace.hidden, hidden), _of(trace.attention, attention))


def _of(
    stack: Float[Array, "layers ..."] | None, layers: Sequence[int]
) -> Float[Array, "asked ..."] | None:
    if stack is None or tuple(layers) == tuple(range(len(stack))):
        return stack
    return jnp.stack([stack[layer] for layer in layers])

"""The image and the text tower."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kdjax.models.config import TextConfig, VisionConfig
from kdjax.models.layers import (
    Embed,
    Linear,
    add_positions,
    norm,
    positions,
    repeated,
)
from kdjax.models.transformer import Attention, Mlp, Trace, Transformer
from kdjax.parallel import by_rows


class Pooled(NamedTuple):
    """Outputs of a tower.

    Attributes:
        pooled: [B, W], what stands for the input, after the last norm.
        tokens: [B, N, W], patches (without class token) or words, after the last norm.
        trace: hidden states and attention maps, when asked for.
    """

    pooled: Float[Array, "B W"]
    tokens: Float[Array, "B N W"]
    trace: Trace

    @property
    def all_tokens(self) -> Float[Array, "B M W"]:
        """[B, 1 + N, W], the pooled token and the others."""
        return jnp.concatenate([self.pooled[:, None], self.tokens], axis=1)


class AttentionPool(nnx.Module):
    """A learnt query looks at all tokens, then an MLP (Zhai 2022, arXiv:2106.04560)."""

    def __init__(
        self, config: VisionConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        width = config.width
        normal = nnx.initializers.normal(width**-0.5)
        self.query = nnx.Param(
            normal(rngs.params(), (width,), dtype=dtypes["param_dtype"])
        )
        self.attention = Attention(
            width, config.num_heads, config.attention, dtypes=dtypes, rngs=rngs
        )
        self.norm = norm(width, dtypes, rngs, config.norm_epsilon)
        self.mlp = Mlp(
            width, config.mlp_width, config.activation, dtypes=dtypes, rngs=rngs
        )

    def __call__(self, tokens: Float[Array, "B N W"]) -> Float[Array, "B W"]:
        """Return one vector for all tokens."""
        tokens = by_rows(tokens)
        x, _ = self.attention(repeated(self.query[...], tokens), tokens)
        return (x + self.mlp(self.norm(x)))[:, 0]


class VisionTower(nnx.Module):
    """A vision transformer (Dosovitskiy 2021, Radford 2021, Zhai 2023)."""

    def __init__(
        self, config: VisionConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width = config.width
        normal = nnx.initializers.normal(width**-0.5)
        param = {"dtype": dtypes["param_dtype"]}
        self.patch_embedding = Linear(
            3 * config.patch_size**2,
            width,
            ("patch", "embed"),
            dtypes,
            rngs,
            use_bias=config.patch_bias,
        )
        self.class_embedding = nnx.data(
            nnx.Param(normal(rngs.params(), (width,), **param))
            if config.class_token
            else None
        )
        self.position_embedding = positions(
            normal(rngs.params(), (config.num_positions, width), **param)
        )
        epsilon = config.norm_epsilon
        self.pre_norm = nnx.data(
            norm(width, dtypes, rngs, epsilon) if config.pre_norm else None
        )
        self.transformer = Transformer(config, dtypes=dtypes, rngs=rngs)
        self.post_norm = norm(width, dtypes, rngs, epsilon)
        self.pool = nnx.data(
            AttentionPool(config, dtypes=dtypes, rngs=rngs)
            if config.pooling == "attention"
            else None
        )

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        *,
        keep: Int[Array, "B K"] | None = None,
        hidden: Sequence[int] = (),
        attention: Sequence[int] = (),
    ) -> Pooled:
        """Encode normalised images [B, image_size, image_size, 3].

        Args:
            images: to encode.
            keep: places of the patches that the transformer sees; None for all.
            hidden: layers whose hidden states are traced, from 0.
            attention: layers whose attention maps are.
        """
        size = self.config.image_size
        if images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images of shape {images.shape}; this tower takes {size} pixels a side"
            )
        x = self.patch_embedding(patchify(images, self.config.patch_size))
        if self.class_embedding is not None:
            cls = repeated(self.class_embedding[...], x)
            x = jnp.concatenate([cls, x], axis=1)
        x = add_positions(x, self.position_embedding[...])
        if keep is not None:
            patches = jnp.take_along_axis(self._patches(x), keep[..., None], axis=1)
            first = x.shape[1] - self.config.num_patches
            x = jnp.concatenate([x[:, :first], patches], axis=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        x, trace = self.transformer(x, hidden=hidden, attention=attention)
        normed = self.post_norm(x)
        return Pooled(self._pooled(x, normed), self._patches(normed), trace)

    def _patches(self, x: Float[Array, "B M W"]) -> Float[Array, "B N W"]:
        return x[:, 1:] if self.config.class_token else x

    def _pooled(
        self, x: Float[Array, "B M W"], normed: Float[Array, "B M W"]
    ) -> Float[Array, "B W"]:
        if self.pool is not None:
            return self.pool(normed)
        if self.config.pooling == "class":
            return normed[:, 0]
        if self.config.norm_after_pooling:
            return self.post_norm(self._patches(x).mean(1))
        return self._patches(normed).mean(1)


def patchify(
    images: Float[Array, "B H W C"], patch_size: int
) -> Float[Array, "B N PPC"]:
    """Cut images into flattened patches, each in (row, column, channel) order.

    As in a convolution, what does not fill a patch at the right and the bottom is left.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    images = images[:, : rows * patch_size, : columns * patch_size]
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, rows * columns, patch_size**2 * channels
    )


class TextTower(nnx.Module):
    """A text transformer (Radford 2021, Zhai 2023)."""

    def __init__(
        self, config: TextConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width = config.width
        # Rows of length one: with OpenAI's 0.02 a narrow tower is slow to start.
        self.token_embedding = Embed(
            config.vocab_size, width, width**-0.5, dtypes, rngs
        )
        self.position_embedding = positions(
            nnx.initializers.normal(0.01)(
                rngs.params(),
                (config.context_length, config.width),
                dtype=dtypes["param_dtype"],
            )
        )
        self.transformer = Transformer(config, dtypes=dtypes, rngs=rngs)
        self.final_norm = norm(config.width, dtypes, rngs, config.norm_epsilon)

    def __call__(
        self,
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
    ) -> Pooled:
        """Encode token ids; without a mask every token is attended to."""
        length = input_ids.shape[1]
        if length > self.config.context_length:
            raise ValueError(
                f"texts of {length} tokens; this tower takes at most "
                f"{self.config.context_length}"
            )
        x = self.token_embedding(input_ids)
        x = add_positions(x, self.position_embedding[:length])
        mask = None
        if attention_mask is not None:
            mask = attention_mask[:, None, None, :].astype(bool)
        x, trace = self.transformer(x, mask, causal=self.config.causal)
        x = self.final_norm(x)
        return Pooled(x[jnp.arange(len(x)), self._place(input_ids)], x, trace)

    def _place(self, input_ids: Int[Array, "B L"]) -> Int[Array, " B"]:
        """Return which token of each text stands for it."""
        if self.config.pooling == "last":
            return jnp.full(len(input_ids), input_ids.shape[1] - 1)
        if self.config.pooling == "argmax":
            return jnp.argmax(input_ids, axis=-1)
        return jnp.argmax(input_ids == self.config.eos_id, axis=-1)

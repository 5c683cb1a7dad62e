"""The image and the text tower."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kdjax.models.config import TextConfig, VisionConfig
from kdjax.models.transformer import Trace, Transformer, linear, partitioned

# The value that old Hugging Face configs carry, whatever their tokenizer's is.
LEGACY_EOS_ID = 2


class Pooled(NamedTuple):
    """Outputs of a tower.

    Attributes:
        pooled: [B, W], the token that stands for the input, after the last norm.
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


class VisionTower(nnx.Module):
    """A vision transformer with a class token (Dosovitskiy 2021, Radford 2021)."""

    def __init__(
        self, config: VisionConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        self.config = config
        width = config.width
        normal = nnx.initializers.normal(width**-0.5)
        param = {"dtype": dtypes["param_dtype"]}
        self.patch_embedding = linear(
            3 * config.patch_size**2,
            width,
            ("patch", "embed"),
            dtypes,
            rngs,
            use_bias=False,
        )
        self.class_embedding = nnx.Param(normal(rngs.params(), (width,), **param))
        self.position_embedding = nnx.Param(
            normal(rngs.params(), (config.num_patches + 1, width), **param)
        )
        norm = {"epsilon": config.norm_epsilon, **dtypes, "rngs": rngs}
        self.pre_norm = nnx.LayerNorm(width, **norm)
        self.transformer = Transformer(config, dtypes=dtypes, rngs=rngs)
        self.post_norm = nnx.LayerNorm(width, **norm)

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        *,
        hidden: bool = False,
        attention: bool = False,
    ) -> Pooled:
        """Encode normalised images [B, image_size, image_size, 3]."""
        size = self.config.image_size
        if images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images of shape {images.shape}; this tower takes {size} pixels a side"
            )
        patches = self.patch_embedding(patchify(images, self.config.patch_size))
        cls = jnp.broadcast_to(
            self.class_embedding.astype(patches.dtype),
            (len(patches), 1, self.config.width),
        )
        x = jnp.concatenate([cls, patches], axis=1)
        x = self.pre_norm(x + self.position_embedding.astype(x.dtype))
        x, trace = self.transformer(x, hidden=hidden, attention=attention)
        x = self.post_norm(x)
        return Pooled(x[:, 0], x[:, 1:], trace)


def patchify(
    images: Float[Array, "B H W C"], patch_size: int
) -> Float[Array, "B N PPC"]:
    """Cut images into flattened patches, each in (row, column, channel) order."""
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, rows * columns, patch_size**2 * channels
    )


class TextTower(nnx.Module):
    """A causal text transformer pooled at the end-of-text token (Radford 2021)."""

    def __init__(
        self, config: TextConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.token_embedding = nnx.Embed(
            config.vocab_size,
            config.width,
            # Rows of length one: with OpenAI's 0.02 a narrow tower is slow to start.
            embedding_init=partitioned(
                nnx.initializers.normal(config.width**-0.5), "vocab", "embed"
            ),
            **dtypes,
            rngs=rngs,
        )
        self.position_embedding = nnx.Param(
            nnx.initializers.normal(0.01)(
                rngs.params(),
                (config.context_length, config.width),
                dtype=dtypes["param_dtype"],
            )
        )
        self.transformer = Transformer(config, dtypes=dtypes, rngs=rngs)
        self.final_norm = nnx.LayerNorm(
            config.width, epsilon=config.norm_epsilon, **dtypes, rngs=rngs
        )

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
        x = x + self.position_embedding[:length].astype(x.dtype)
        mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].astype(bool)
        x, trace = self.transformer(x, mask)
        x = self.final_norm(x)
        pooled = x[jnp.arange(len(x)), eos_position(input_ids, self.config.eos_id)]
        return Pooled(pooled, x, trace)


def eos_position(input_ids: Int[Array, "B L"], eos_id: int) -> Int[Array, " B"]:
    """Return the first place of `eos_id` in each row, or of the largest id (legacy)."""
    if eos_id == LEGACY_EOS_ID:
        return jnp.argmax(input_ids, axis=-1)
    return jnp.argmax(input_ids == eos_id, axis=-1)

"""Visual question answering as classification over an answer vocabulary."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kdjax.models.config import TransformerConfig, VQAConfig
from kdjax.models.layers import Embed, Linear, add_positions, norm, positions
from kdjax.models.towers import VisionTower
from kdjax.models.transformer import Attention, Mlp, Transformer, short_stack
from kdjax.parallel import by_rows


class QuestionEncoder(nnx.Module):
    """Words to one vector: transformer layers (or none) and a mean over the words."""

    def __init__(
        self, config: VQAConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        width = config.width
        self.pad_id = config.pad_id
        self.embedding = Embed(config.vocab_size, width, 1.0, dtypes, rngs)
        self.position_embedding = positions(
            nnx.initializers.normal(0.02)(
                rngs.params(),
                (config.question_length, width),
                dtype=dtypes["param_dtype"],
            )
        )
        stack = TransformerConfig(
            width=width,
            layers=config.question_layers,
            num_heads=config.num_heads,
            mlp_width=4 * width,
            attention=config.attention,
        )
        self.transformer = nnx.data(
            Transformer(stack, dtypes=dtypes, rngs=rngs)
            if config.question_layers
            else None
        )
        self.norm = norm(width, dtypes, rngs)

    def __call__(self, ids: Int[Array, "Q L"]) -> Float[Array, "Q W"]:
        """Encode questions, filled up with the pad token."""
        words = ids != self.pad_id
        x = self.embedding(ids)
        if self.transformer is not None:
            x = add_positions(x, self.position_embedding[...])
            x, _ = self.transformer(x, words[:, None, None, :])
        weights = words / jnp.maximum(words.sum(1, keepdims=True), 1)
        return self.norm(jnp.einsum("ql,qlw->qw", weights.astype(x.dtype), x))


class FusionBlock(nnx.Module):
    """Questions look at the image: pre-norm cross-attention and an MLP."""

    def __init__(
        self, config: VQAConfig, *, dtypes: dict[str, Any], rngs: nnx.Rngs
    ) -> None:
        self.query_norm = norm(config.width, dtypes, rngs)
        self.attention = Attention(
            config.width, config.num_heads, config.attention, dtypes=dtypes, rngs=rngs
        )
        self.mlp_norm = norm(config.width, dtypes, rngs)
        self.mlp = Mlp(config.width, 4 * config.width, "gelu", dtypes=dtypes, rngs=rngs)

    def __call__(
        self, questions: Float[Array, "B Q W"], image: Float[Array, "B N W"]
    ) -> Float[Array, "B Q W"]:
        """Return questions that have read from the image's tokens."""
        questions = by_rows(questions)
        attended, _ = self.attention(self.query_norm(questions), image)
        questions = questions + attended
        return questions + self.mlp(self.mlp_norm(questions))


class VQAModel(nnx.Module):
    """A vision tower whose patch tokens several questions at once read from.

    The questions of an image are queries to the same keys and values, so the tower runs
    once per image however many questions are asked.
    """

    def __init__(self, config: VQAConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        dtypes: dict[str, Any] = {
            "dtype": jnp.dtype(config.dtype),
            "param_dtype": jnp.dtype(config.param_dtype),
        }
        self.vision = VisionTower(config.vision, dtypes=dtypes, rngs=rngs)
        width = config.width
        self.image_adaptor = Linear(
            config.vision.width, width, ("patch", "embed"), dtypes, rngs
        )
        self.image_norm = norm(width, dtypes, rngs)
        self.question_encoder = QuestionEncoder(config, dtypes=dtypes, rngs=rngs)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stack(rngs: nnx.Rngs) -> FusionBlock:
            return FusionBlock(config, dtypes=dtypes, rngs=rngs)

        self.fusion = stack(rngs)
        self.head_norm = norm(width, dtypes, rngs)
        self.head = Linear(
            width, config.num_answers, ("embed", "answers"), dtypes, rngs
        )

    def __call__(
        self, images: Float[Array, "B H W 3"], questions: Int[Array, "B Q L"]
    ) -> Float[Array, "B Q A"]:
        """Return answer logits of Q questions about each image.

        Args:
            images: normalised for the tower.
            questions: token ids, filled up with the pad token.
        """
        return self.answer(self.vision(images).all_tokens, questions)

    def answer(
        self, tokens: Float[Array, "B N V"], questions: Int[Array, "B Q L"]
    ) -> Float[Array, "B Q A"]:
        """Return answer logits of Q questions about each image's tokens."""
        image = by_rows(self.image_norm(self.image_adaptor(tokens)))
        batch, count, length = questions.shape
        queries = self.question_encoder(questions.reshape(batch * count, length))
        queries = by_rows(queries.reshape(batch, count, -1))

        @nnx.scan(
            in_axes=(nnx.Carry, 0),
            out_axes=nnx.Carry,
            unroll=short_stack(self.config.layers),
        )
        def step(x: Array, block: FusionBlock) -> Array:
            return block(x, image)

        fused = step(queries, self.fusion)
        return self.head(self.head_norm(fused)).astype(jnp.float32)


def answering_part(config: VQAConfig, *, rngs: nnx.Rngs) -> VQAModel:
    """Return a VQA model without a tower, which answers from tokens alone."""
    model = VQAModel(config, rngs=rngs)
    del model.vision
    return model

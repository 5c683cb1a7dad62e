"""What a model hands to an objective."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

# Fields of `Embeddings`, each with its layers, or with none where it has none.
Wanted = tuple[tuple[str, tuple[int, ...]], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Outputs of one CLIP model for one batch, as `CLIP.embeddings` returns them.

    Attributes:
        image: [B, D], projected and not normalised.
        text: [B, D], projected and not normalised.
        logit_scale: scalar, already exponentiated.
        calibrated_scale: scalar, of a teacher: what its soft targets are made with when
            teachers are compared; None where it was not calibrated.
        logit_bias: scalar, of sigmoid models only.
        image_tokens: [B, N, W], the vision tower's patch tokens after its last norm.
        text_tokens: [B, L, W], the text tower's tokens after its last norm.
        image_hidden: [layers, B, M, W], the residual stream after every layer; M counts
            a class token, which comes first.
        image_attention: [layers, B, H, M, M], attention maps.
        masked_image: [B, D], the image embedding of a masked second pass.
        text_id: [B, K], equal in rows whose texts are; of a student.
        class_logits: [B, C], of a classifier on top.
        class_targets: [B, C], what the labels say of the classes: scores in [0, 1].
        class_weights: [B], how much a row of classes counts in a mean; 0 for padding.
            None where all count alike.
    """

    image: Float[Array, "B D"]
    text: Float[Array, "B D"]
    logit_scale: Float[Array, ""]
    calibrated_scale: Float[Array, ""] | None = None
    logit_bias: Float[Array, ""] | None = None
    image_tokens: Float[Array, "B N W"] | None = None
    text_tokens: Float[Array, "B L W2"] | None = None
    image_hidden: Float[Array, "layers B M W"] | None = None
    image_attention: Float[Array, "layers2 B H M M"] | None = None
    masked_image: Float[Array, "B D"] | None = None
    text_id: UInt32[Array, "B K"] | None = None
    class_logits: Float[Array, "B C"] | None = None
    class_targets: Float[Array, "B C"] | None = None
    class_weights: Float[Array, " B"] | None = None

    @classmethod
    def of_classes(
        cls,
        logits: Float[Array, "B C"],
        targets: Float[Array, "B C"] | None = None,
        weights: Float[Array, " B"] | None = None,
    ) -> "Embeddings":
        """Return the outputs of a classifier, which embeds no pairs.

        Args:
            logits: of the classes.
            targets: what the labels say; a teacher has none.
            weights: how much each row counts; None for all alike.
        """
        nothing = jnp.zeros((len(logits), 0))
        return cls(
            image=nothing,
            text=nothing,
            logit_scale=jnp.float32(1),
            class_logits=logits,
            class_targets=targets,
            class_weights=weights,
        )

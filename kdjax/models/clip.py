"""CLIP: an image and a text tower with a joint embedding space."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from kdjax.embeddings import Embeddings, Wanted
from kdjax.models.config import CLIPConfig, VisionConfig
from kdjax.models.layers import Linear
from kdjax.models.towers import TextTower, VisionTower


class CLIPOutput(NamedTuple):
    """What a CLIP model says of a batch.

    Attributes:
        image_embeds: [B, D], L2-normalised.
        text_embeds: [B, D], L2-normalised.
        logits_per_image: [B, B], scaled cosines, with the logit bias if there is one.
        logits_per_text: [B, B], their transpose.
    """

    image_embeds: Float[Array, "B D"]
    text_embeds: Float[Array, "B2 D"]
    logits_per_image: Float[Array, "B B2"]
    logits_per_text: Float[Array, "B2 B"]


class CLIP(nnx.Module):
    """A CLIP model (Radford et al. 2021, arXiv:2103.00020), or a SigLIP by its config.

    SigLIP (Zhai et al. 2023, arXiv:2303.15343) has a logit bias and pools by attention.
    """

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        dtypes: dict[str, Any] = {
            "dtype": jnp.dtype(config.dtype),
            "param_dtype": jnp.dtype(config.param_dtype),
        }
        self.vision = VisionTower(config.vision, dtypes=dtypes, rngs=rngs)
        self.text = TextTower(config.text, dtypes=dtypes, rngs=rngs)
        axes, joint = ("embed", "joint"), config.embed_dim
        self.visual_projection = nnx.data(
            Linear(config.vision.width, joint, axes, dtypes, rngs, use_bias=False)
            if config.visual_projection
            else None
        )
        self.text_projection = Linear(
            config.text.width,
            joint,
            axes,
            dtypes,
            rngs,
            use_bias=config.text_projection_bias,
        )
        self.logit_scale = nnx.Param(jnp.float32(config.logit_scale_init))
        self.logit_bias = nnx.data(
            None
            if config.logit_bias_init is None
            else nnx.Param(jnp.float32(config.logit_bias_init))
        )

    def _project(self, pooled: Float[Array, "B W"]) -> Float[Array, "B D"]:
        return (
            pooled if self.visual_projection is None else self.visual_projection(pooled)
        )

    def encode_image(
        self,
        images: Float[Array, "B H W 3"],
        *,
        keep: Int[Array, "B K"] | None = None,
        normalize: bool = False,
    ) -> Float[Array, "B D"]:
        """Embed normalised images, or only the patches at the places in `keep`."""
        embeds = self._project(self.vision(images, keep=keep).pooled)
        return l2_normalize(embeds) if normalize else embeds

    def encode_text(
        self,
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        *,
        normalize: bool = False,
    ) -> Float[Array, "B D"]:
        """Embed token ids."""
        embeds = self.text_projection(self.text(input_ids, attention_mask).pooled)
        return l2_normalize(embeds) if normalize else embeds

    def embeddings(
        self,
        images: Float[Array, "B H W 3"],
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        *,
        tokens: bool = False,
        hidden: bool = False,
        attention: bool = False,
    ) -> Embeddings:
        """Return what objectives take; the flags ask for more, of all layers."""
        layers = tuple(range(self.config.vision.layers))
        flags = {
            ("image_tokens", ()): tokens,
            ("text_tokens", ()): tokens,
            ("image_hidden", layers): hidden,
            ("image_attention", layers): attention,
        }
        wanted = tuple(each for each, flag in flags.items() if flag)
        return self.embed(images, input_ids, attention_mask, wanted=wanted)

    def embed(
        self,
        images: Float[Array, "B H W 3"],
        input_ids: Int[Array, "B L"],
        attention_mask: Int[Array, "B L"] | None = None,
        *,
        wanted: Wanted,
    ) -> Embeddings:
        """Return embeddings and what else is wanted, of the wanted layers alone.

        Args:
            images: normalised.
            input_ids: of texts.
            attention_mask: of their tokens.
            wanted: fields, such as an objective's `wanted` names; those that towers do
                not show are left out.
        """
        text = self.text(input_ids, attention_mask)
        return Embeddings(
            **self.see(images, wanted),
            text=self.text_projection(text.pooled),
            logit_scale=jnp.exp(self.logit_scale[...]),
            logit_bias=None if self.logit_bias is None else self.logit_bias[...],
            text_tokens=text.tokens if "text_tokens" in dict(wanted) else None,
        )

    def see(self, images: Float[Array, "B H W 3"], wanted: Wanted) -> dict[str, Array]:
        """Return the fields of `embed` that are of images."""
        layers = dict(wanted)
        vision = self.vision(
            images,
            hidden=layers.get("image_hidden", ()),
            attention=layers.get("image_attention", ()),
        )
        shown: dict[str, Any] = {
            "image_tokens": vision.tokens,
            "image_hidden": vision.trace.hidden,
            "image_attention": vision.trace.attention,
        }
        fields = {field: x for field, x in shown.items() if field in layers}
        return {"image": self._project(vision.pooled), **fields}

    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        input_ids: Int[Array, "B2 L"],
        attention_mask: Int[Array, "B2 L"] | None = None,
    ) -> CLIPOutput:
        """Return normalised embeddings and the similarity of every pair."""
        image = self.encode_image(images, normalize=True)
        text = self.encode_text(input_ids, attention_mask, normalize=True)
        logits = jnp.exp(self.logit_scale[...]) * image @ text.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias[...]
        return CLIPOutput(image, text, logits, logits.T)


def l2_normalize(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Divide rows by their L2 norm."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def preprocess(
    images: UInt8[Array, "B H W 3"], config: VisionConfig
) -> Float[Array, "B S S 3"]:
    """Turn a batch's uint8 images into a tower's own size and normalisation.

    Sizes, crop and rounding are those of `transformers`, which resizes with Pillow:
    rows and columns in turn, each time to whole numbers. A value may still be one of
    256 levels beside, where the exact one lies halfway between two.
    """
    x = images.astype(jnp.float32)
    if images.shape[1:3] != (config.image_size, config.image_size):
        x = _resized(x, config)
    return (x / 255 - jnp.asarray(config.mean)) / jnp.asarray(config.std)


def _resized(
    x: Float[Array, "B H W 3"], config: VisionConfig
) -> Float[Array, "B S S 3"]:
    """Resize images to a square; of what would be cut off nothing is computed."""
    size, sides = config.image_size, x.shape[1:3]
    new: tuple[int, ...] = (size, size)
    if config.resize == "shortest":
        new = tuple(int(size * side / min(sides)) for side in sides)
    fewer_rows, fewer_columns = (s - n for s, n in zip(sides, new, strict=True))
    # As Pillow: the columns first where that leaves less to do.
    columns_first = fewer_rows > 0 and fewer_rows > 2 * fewer_columns
    for axis in (1, 2) if columns_first else (2, 1):
        cut = (new[axis - 1] - size) // 2
        x = jax.image.scale_and_translate(
            x,
            (*x.shape[:axis], size, *x.shape[axis + 1 :]),
            (axis,),
            scale=jnp.array([new[axis - 1] / sides[axis - 1]]),
            translation=jnp.array([-float(cut)]),
            method="cubic" if config.interpolation == "bicubic" else "linear",
            antialias=True,
        )
        x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return x

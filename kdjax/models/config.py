"""The frozen configs that models are built from."""

import dataclasses
import math
from typing import Any, Literal

from kdjax.errors import UserError
from kdjax.preprocessing import (
    OPENAI_MEAN,
    OPENAI_STD,
    Interpolation,
    Preprocessing,
    Resize,
)

Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]
Kernel = Literal["xla", "cudnn", "splash"]
Remat = Literal["none", "dots", "full"]
ImagePooling = Literal["class", "mean", "attention"]
TextPooling = Literal["eos", "argmax", "last"]


def check_counts(config: Any, *names: str) -> None:
    """Raise a UserError unless what a config counts is a whole number above zero."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} is {value!r}: give a whole number of at least 1")


def check_heads(width: int, num_heads: int) -> None:
    """Raise a UserError unless attention heads share a width evenly."""
    if num_heads < 1 or width % num_heads:
        raise UserError(
            f"num_heads {num_heads} does not divide the width {width}: choose one that "
            "does"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A stack of pre-norm transformer blocks.

    Attributes:
        width: of the residual stream.
        layers: number of blocks.
        num_heads: attention heads; divides `width`.
        mlp_width: hidden width of the MLP.
        activation: of the MLP.
        norm_epsilon: of every layer norm.
        attention: "xla"; or a fused kernel, "cudnn" of NVIDIA GPUs, or "splash" of
            TPUs, which is for training and not used outside of a step.
        remat: what of a block is computed again for the gradient instead of kept:
            "none"; "dots", all but what its linear maps say; "full", all of it.
    """

    width: int
    layers: int
    num_heads: int
    mlp_width: int
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-5
    attention: Kernel = "xla"
    remat: Remat = "none"

    def __post_init__(self) -> None:
        check_counts(self, "width", "num_heads", "mlp_width")
        check_heads(self.width, self.num_heads)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(TransformerConfig):
    """A vision transformer tower.

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels; what does not fill one is not seen.
        pooling: what stands for the image: "class", the class token; "mean", the mean
            of the patch tokens (CLIPA); "attention", a learnt query's view of them
            (SigLIP).
        class_token: whether a class token goes through the tower with the patches.
        pre_norm: whether a layer norm comes before the first block.
        norm_after_pooling: whether the last norm is applied to the mean and not, before
            it, to the tokens.
        patch_bias: whether the patch embedding has a bias.
        mean: per channel, subtracted from images in [0, 1].
        std: per channel, divided by.
        interpolation: with which images of another size are resized.
        resize: "shortest", the shorter side to `image_size` and then the centre; or
            "squash", both sides to `image_size`.
    """

    image_size: int
    patch_size: int
    pooling: ImagePooling = "class"
    class_token: bool = True
    pre_norm: bool = True
    norm_after_pooling: bool = False
    patch_bias: bool = False
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: Interpolation = "bicubic"
    resize: Resize = "shortest"

    @property
    def num_patches(self) -> int:
        """Patch tokens of one image, the class token not counted."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        """Rows of the position embedding; the class token's comes first."""
        return self.num_patches + self.class_token

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the tower's input."""
        return Preprocessing(
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize=self.resize,
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "layers", "image_size", "patch_size")
        if self.image_size < self.patch_size:
            raise UserError(
                f"an image of {self.image_size} pixels has no patch of "
                f"{self.patch_size}: give a larger image_size"
            )
        if self.pooling == "class" and not self.class_token:
            raise UserError(
                "a vision tower without class token cannot be pooled at it: choose "
                "pooling mean or attention"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """A text transformer tower.

    Attributes:
        vocab_size: rows of the token embedding.
        context_length: longest text in tokens.
        pooling: which token stands for the text: "eos", the first of id `eos_id`;
            "argmax", the first of the text's largest id (OpenAI's code, OpenCLIP);
            "last", the last one, padding or not (CLIPA, SigLIP).
        eos_id: the end-of-text token's id; needed by pooling "eos".
        causal: whether a token sees only itself and those before it.
    """

    vocab_size: int
    context_length: int
    pooling: TextPooling = "eos"
    eos_id: int | None = None
    causal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "layers", "vocab_size", "context_length")
        if not isinstance(self.eos_id, int | None):
            raise UserError(f"eos_id is {self.eos_id!r}: give one whole number")
        if self.pooling == "eos" and self.eos_id is None:
            raise UserError(
                "a text tower pooled at its end-of-text token needs that token's "
                "eos_id: give it, or choose pooling argmax or last"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Two towers and what joins them.

    Attributes:
        vision: the image tower.
        text: the text tower.
        embed_dim: width of the joint space.
        visual_projection: whether a linear map takes images there; without one the
            vision tower is as wide as the joint space (SigLIP).
        text_projection_bias: whether the texts' linear map has a bias.
        logit_scale_init: initial logarithm of the logit scale.
        logit_bias_init: initial logit bias of sigmoid models; None for softmax models.
        dtype: in which the forward pass computes.
        param_dtype: in which parameters are held.
    """

    vision: VisionConfig
    text: TextConfig
    embed_dim: int
    visual_projection: bool = True
    text_projection_bias: bool = False
    logit_scale_init: float = math.log(1 / 0.07)
    logit_bias_init: float | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.visual_projection and self.vision.width != self.embed_dim:
            raise UserError(
                f"a vision tower of width {self.vision.width} needs a projection to "
                f"the joint space of width {self.embed_dim}: set visual_projection"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQAConfig:
    """A vision tower, a question encoder, cross-attention and a classifier.

    Attributes:
        vision: the image tower, as in the CLIP model that it is taken from.
        vocab_size: rows of the question encoder's token embedding.
        pad_id: the token that fills a question up; it is not read.
        question_length: longest question in tokens.
        question_layers: transformer layers over the question's words; with 0 a question
            is a bag of words.
        width: of the fusion.
        layers: cross-attention blocks.
        num_heads: of the fusion's attention.
        num_answers: classes.
        attention: of the question encoder and the fusion, as that of a tower.
        dtype: in which the forward pass computes.
        param_dtype: in which parameters are held.
    """

    vision: VisionConfig
    vocab_size: int
    pad_id: int = 0
    question_length: int
    question_layers: int
    width: int
    layers: int
    num_heads: int
    num_answers: int
    attention: Kernel = "xla"
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_heads(self.width, self.num_heads)


def to_dict(config: CLIPConfig | VQAConfig) -> dict[str, Any]:
    """Return a config as plain nested dicts, for a JSON file."""
    return dataclasses.asdict(config)


def _tupled(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def vqa_config_from_dict(values: dict[str, Any]) -> VQAConfig:
    """Return the VQA config that `to_dict` wrote."""
    return VQAConfig(**{**values, "vision": VisionConfig(**_tupled(values["vision"]))})

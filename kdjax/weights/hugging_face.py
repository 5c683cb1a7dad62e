"""CLIP and SigLIP as `transformers` writes them: config.json and tensor names."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from kdjax.errors import UserError
from kdjax.hub import without_advice
from kdjax.models import CLIPConfig, TextConfig, VisionConfig
from kdjax.preprocessing import (
    Family,
    as_far_as_known,
    hugging_face_default,
    read_hugging_face,
    square_side,
    write_hugging_face,
)
from kdjax.weights.rules import (
    Rule,
    fused,
    linear,
    norm,
    patches,
    same,
    stacked,
    wrapped,
)

Values = Mapping[str, Any]

# The value that old CLIP configs carry whatever their tokenizer's is: the text is
# pooled at its largest id then.
LEGACY_EOS_ID = 2
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}

BLOCK = [
    *norm("layer_norm1", "attention_norm"),
    *linear("self_attn.q_proj", "attention", "query"),
    *linear("self_attn.k_proj", "attention", "key"),
    *linear("self_attn.v_proj", "attention", "value"),
    *linear("self_attn.out_proj", "attention", "out"),
    *norm("layer_norm2", "mlp_norm"),
    *linear("mlp.fc1", "mlp", "up"),
    *linear("mlp.fc2", "mlp", "down"),
]


def _towers(config: CLIPConfig) -> list[Rule]:
    """Return the rules that CLIP and SigLIP share."""
    vision, text = "vision_model.", "text_model."
    rules = [
        same(
            f"{vision}embeddings.patch_embedding.weight",
            *("vision", "patch_embedding", "kernel"),
            form=patches(config.vision.patch_size),
        ),
        same(
            f"{vision}embeddings.position_embedding.weight",
            *("vision", "position_embedding"),
        ),
        *norm(f"{vision}post_layernorm", "vision", "post_norm"),
        same(
            f"{text}embeddings.token_embedding.weight",
            *("text", "token_embedding", "embedding"),
        ),
        same(
            f"{text}embeddings.position_embedding.weight",
            *("text", "position_embedding"),
        ),
        *norm(f"{text}final_layer_norm", "text", "final_norm"),
    ]
    for name, layers in (
        ("vision", config.vision.layers),
        ("text", config.text.layers),
    ):
        prefix = f"{name}_model.encoder.layers.{{}}."
        rules += stacked(BLOCK, prefix, (name, "transformer", "blocks"), layers)
    return rules


def clip_rules(config: CLIPConfig) -> list[Rule]:
    """Return the table of `transformers.CLIPModel`."""
    return [
        same("logit_scale", "logit_scale"),
        same("vision_model.embeddings.class_embedding", "vision", "class_embedding"),
        *norm("vision_model.pre_layrnorm", "vision", "pre_norm"),
        *linear("visual_projection", "visual_projection", bias=False),
        *linear("text_projection", "text_projection", bias=False),
        *_towers(config),
    ]


def siglip_rules(config: CLIPConfig) -> list[Rule]:
    """Return the table of `transformers.SiglipModel`."""
    head, pool = "vision_model.head.", ("vision", "pool")
    return [
        same("logit_scale", "logit_scale", form=wrapped(1)),
        same("logit_bias", "logit_bias", form=wrapped(1)),
        same(
            "vision_model.embeddings.patch_embedding.bias",
            *("vision", "patch_embedding", "bias"),
        ),
        same(f"{head}probe", *pool, "query", form=wrapped(2)),
        *fused(
            f"{head}attention.in_proj_", (*pool, "attention"), ("query", "key", "value")
        ),
        *linear(f"{head}attention.out_proj", *pool, "attention", "out"),
        *norm(f"{head}layernorm", *pool, "norm"),
        *linear(f"{head}mlp.fc1", *pool, "mlp", "up"),
        *linear(f"{head}mlp.fc2", *pool, "mlp", "down"),
        *linear("text_model.head", "text_projection"),
        *_towers(config),
    ]


def _tower(config: Any) -> dict[str, Any]:
    if config.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"hidden_act {config.hidden_act!r} is not one that kdjax computes; "
            f"{', '.join(ACTIVATIONS)} are"
        )
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_width": config.intermediate_size,
        "activation": ACTIVATIONS[config.hidden_act],
        "norm_epsilon": float(config.layer_norm_eps),
    }


def _given(values: Values) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != "model_type"}


def _images(preprocessor: Values, family: Family, image_size: int) -> dict[str, Any]:
    """Return the part of a vision config that is about images."""
    found = as_far_as_known(
        lambda: read_hugging_face(preprocessor, family),
        hugging_face_default(family),
        mean=preprocessor.get("image_mean"),
        std=preprocessor.get("image_std"),
    )
    return asdict(replace(found, image_size=image_size))


def read_clip(values: Values, preprocessor: Values) -> CLIPConfig:
    """Return our config of CLIP's; what is left out takes the defaults there."""
    with without_advice():
        from transformers import CLIPConfig as TheirConfig

    theirs: Any = TheirConfig(**_given(values))
    vision, text = theirs.vision_config, theirs.text_config
    if vision.num_channels != 3:
        raise UserError(f"images of {vision.num_channels} channels are not seen; 3 are")
    legacy = text.eos_token_id == LEGACY_EOS_ID
    return CLIPConfig(
        vision=VisionConfig(
            **_tower(vision),
            patch_size=square_side(vision.patch_size),
            **_images(preprocessor, "clip", square_side(vision.image_size)),
        ),
        text=TextConfig(
            **_tower(text),
            vocab_size=text.vocab_size,
            context_length=text.max_position_embeddings,
            pooling="argmax" if legacy else "eos",
            eos_id=None if legacy else text.eos_token_id,
        ),
        embed_dim=theirs.projection_dim,
        logit_scale_init=float(theirs.logit_scale_init_value),
    )


def read_siglip(values: Values, preprocessor: Values) -> CLIPConfig:
    """Return our config of SigLIP's; what is left out takes the defaults there."""
    with without_advice():
        from transformers import SiglipConfig as TheirConfig

    theirs: Any = TheirConfig(**_given(values))
    vision, text = theirs.vision_config, theirs.text_config
    if vision.num_channels != 3:
        raise UserError(f"images of {vision.num_channels} channels are not seen; 3 are")
    if not getattr(vision, "vision_use_head", True):
        raise UserError("a SigLIP without attention pooling has no image embedding")
    return CLIPConfig(
        vision=VisionConfig(
            **_tower(vision),
            patch_size=square_side(vision.patch_size),
            pooling="attention",
            class_token=False,
            pre_norm=False,
            patch_bias=True,
            **_images(preprocessor, "siglip", square_side(vision.image_size)),
        ),
        text=TextConfig(
            **_tower(text),
            vocab_size=text.vocab_size,
            context_length=text.max_position_embeddings,
            pooling="last",
            causal=False,
        ),
        embed_dim=text.projection_size,
        visual_projection=False,
        text_projection_bias=True,
        logit_scale_init=0.0,
        logit_bias_init=0.0,
    )


def _write_tower(config: VisionConfig | TextConfig) -> dict[str, Any]:
    tanh = config.activation == "gelu_tanh"
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": "gelu_pytorch_tanh" if tanh else config.activation,
        "layer_norm_eps": config.norm_epsilon,
    }


def _write_vision(config: VisionConfig) -> dict[str, Any]:
    sizes = {"image_size": config.image_size, "patch_size": config.patch_size}
    return {**_write_tower(config), **sizes}


def _write_text(config: TextConfig) -> dict[str, Any]:
    return {
        **_write_tower(config),
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": config.eos_id if config.pooling == "eos" else LEGACY_EOS_ID,
    }


def write_clip(config: CLIPConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of config.json and preprocessor_config.json."""
    width = {"projection_dim": config.embed_dim}
    values = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        **width,
        "logit_scale_init_value": config.logit_scale_init,
        "vision_config": {**_write_vision(config.vision), **width},
        "text_config": {**_write_text(config.text), **width},
    }
    return values, write_hugging_face(config.vision.preprocessing, "clip")


def write_siglip(config: CLIPConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of config.json and preprocessor_config.json."""
    text = {**_write_text(config.text), "projection_size": config.embed_dim}
    del text["eos_token_id"]
    values = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": _write_vision(config.vision),
        "text_config": text,
    }
    return values, write_hugging_face(config.vision.preprocessing, "siglip")

"""CLIP models as OpenCLIP writes them: open_clip_config.json and tensor names."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kdjax.errors import UserError
from kdjax.models import CLIPConfig, TextConfig, VisionConfig
from kdjax.models.config import Activation
from kdjax.preprocessing import (
    as_far_as_known,
    read_open_clip,
    square_side,
    write_open_clip,
)
from kdjax.weights.rules import (
    SAME,
    TRANSPOSED,
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

QUERY_KEY_VALUE = ("query", "key", "value")
BLOCK = [
    *norm("ln_1", "attention_norm"),
    *fused("attn.in_proj_", ("attention",), QUERY_KEY_VALUE),
    *linear("attn.out_proj", "attention", "out"),
    *norm("ln_2", "mlp_norm"),
    *linear("mlp.c_fc", "mlp", "up"),
    *linear("mlp.c_proj", "mlp", "down"),
]
# Of timm's vision transformers, which OpenCLIP takes for SigLIP.
TIMM_BLOCK = [
    *norm("norm1", "attention_norm"),
    *fused("attn.qkv.", ("attention",), QUERY_KEY_VALUE),
    *linear("attn.proj", "attention", "out"),
    *norm("norm2", "mlp_norm"),
    *linear("mlp.fc1", "mlp", "up"),
    *linear("mlp.fc2", "mlp", "down"),
]
# How the vision towers are pooled that OpenCLIP takes from timm.
TIMM = "attention"
# Name in timm -> width, layers, heads, MLP width.
TIMM_TOWERS = {
    "vit_base": (768, 12, 12, 3072),
    "vit_large": (1024, 24, 16, 4096),
    "vit_so400m": (1152, 27, 16, 4304),
    "vit_giantopt": (1536, 40, 16, 6144),
}
# (name, patch size) -> the image sizes that timm has it for.
TIMM_SIZES: dict[tuple[str, int], tuple[int, ...]] = {
    ("vit_base", 16): (224, 256, 384, 512),
    ("vit_base", 32): (256,),
    ("vit_large", 16): (256, 384, 512),
    ("vit_so400m", 14): (224, 378, 384),
    ("vit_so400m", 16): (256, 384, 512),
    ("vit_giantopt", 16): (256, 384),
}
# Those of them whose activation is the approximate one; the others' is exact.
TIMM_TANH = re.compile(
    r"vit_(base_patch32_siglip_256|large_patch16_siglip_512|so400m_patch16_.*"
    r"|giantopt_.*)"
)
TIMM_NAME = re.compile(r"(vit_[a-z0-9]+)_patch(\d+)_siglip_(\d+)")
# Settings that change nothing where they have this value; no other can be loaded.
PLAIN: dict[str, Any] = {
    "ls_init_value": None,
    "attentional_pool": False,
    "pos_embed_type": "learnable",
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "embed_cls": False,
    "hf_model_name": None,
    "proj_type": "linear",
}


def rules(config: CLIPConfig) -> list[Rule]:
    """Return the table of OpenCLIP's model class for a config."""
    biased, timm = config.logit_bias_init is not None, config.vision.pooling == TIMM
    return [
        same("logit_scale", "logit_scale"),
        *([same("logit_bias", "logit_bias")] if biased else []),
        *(_timm_vision(config) if timm else _vision(config)),
        *_text(config, "text." if timm else ""),
    ]


def _vision(config: CLIPConfig) -> list[Rule]:
    vision = config.vision
    return [
        same("visual.class_embedding", "vision", "class_embedding"),
        same("visual.positional_embedding", "vision", "position_embedding"),
        same("visual.proj", "visual_projection", "kernel"),
        same(
            "visual.conv1.weight",
            *("vision", "patch_embedding", "kernel"),
            form=patches(vision.patch_size),
        ),
        *(norm("visual.ln_pre", "vision", "pre_norm") if vision.pre_norm else []),
        *stacked(
            BLOCK,
            "visual.transformer.resblocks.{}.",
            ("vision", "transformer", "blocks"),
            vision.layers,
        ),
        *norm("visual.ln_post", "vision", "post_norm"),
    ]


def _timm_vision(config: CLIPConfig) -> list[Rule]:
    trunk, head, pool = "visual.trunk.", "visual.trunk.attn_pool.", ("vision", "pool")
    return [
        same(
            f"{trunk}patch_embed.proj.weight",
            *("vision", "patch_embedding", "kernel"),
            form=patches(config.vision.patch_size),
        ),
        same(f"{trunk}patch_embed.proj.bias", "vision", "patch_embedding", "bias"),
        same(f"{trunk}pos_embed", "vision", "position_embedding", form=wrapped(1)),
        *stacked(
            TIMM_BLOCK,
            f"{trunk}blocks.{{}}.",
            ("vision", "transformer", "blocks"),
            config.vision.layers,
        ),
        *norm(f"{trunk}norm", "vision", "post_norm"),
        same(f"{head}latent", *pool, "query", form=wrapped(2)),
        *linear(f"{head}q", *pool, "attention", "query"),
        *fused(f"{head}kv.", (*pool, "attention"), ("key", "value")),
        *linear(f"{head}proj", *pool, "attention", "out"),
        *norm(f"{head}norm", *pool, "norm"),
        *linear(f"{head}mlp.fc1", *pool, "mlp", "up"),
        *linear(f"{head}mlp.fc2", *pool, "mlp", "down"),
    ]


def _text(config: CLIPConfig, prefix: str) -> list[Rule]:
    biased = config.text_projection_bias
    # A matrix [in, out] of its own where there is no bias, a linear layer where one is.
    projection = f"{prefix}text_projection"
    return [
        same(f"{prefix}positional_embedding", "text", "position_embedding"),
        same(f"{prefix}token_embedding.weight", "text", "token_embedding", "embedding"),
        *stacked(
            BLOCK,
            f"{prefix}transformer.resblocks.{{}}.",
            ("text", "transformer", "blocks"),
            config.text.layers,
        ),
        *norm(f"{prefix}ln_final", "text", "final_norm"),
        same(
            f"{projection}.weight" if biased else projection,
            *("text_projection", "kernel"),
            form=TRANSPOSED if biased else SAME,
        ),
        *([same(f"{projection}.bias", "text_projection", "bias")] if biased else []),
    ]


def read(values: Values, preprocessor: Values) -> CLIPConfig:
    """Return our config of an open_clip_config.json; the rest has OpenCLIP's defaults.

    Raises:
        UserError: it asks for what our models do not compute.
    """
    model = values.get("model_cfg", values)
    vision, text = model["vision_cfg"], model["text_cfg"]
    for tower, given in (("vision_cfg", vision), ("text_cfg", text)):
        for key, plain in PLAIN.items():
            if given.get(key, plain) != plain:
                raise UserError(
                    f"the OpenCLIP model has {tower}.{key} {given[key]!r}, which kdjax "
                    "does not compute"
                )
    timm = "timm_model_name" in vision
    if model.get("custom_text") and not timm:
        raise UserError(
            "the OpenCLIP model has custom_text and no vision tower of timm, a layout "
            "that kdjax does not read"
        )
    quick, bias = model.get("quick_gelu", False), model.get("init_logit_bias")
    seeing = _read_timm(vision) if timm else _read_vision(vision, quick)
    return CLIPConfig(
        vision=VisionConfig(
            **(seeing | _images(values.get("preprocess_cfg", {}), seeing["image_size"]))
        ),
        text=_read_text(text, quick),
        embed_dim=model["embed_dim"],
        visual_projection=not timm,
        text_projection_bias=text.get("proj_bias", False),
        logit_bias_init=None if bias is None else float(bias),
    )


def _images(preprocessing: Values, image_size: int) -> dict[str, Any]:
    """Return the part of a vision config that is about images."""
    given = preprocessing if isinstance(preprocessing, Mapping) else {}
    found = as_far_as_known(
        lambda: read_open_clip(given, image_size),
        read_open_clip({}, image_size),
        mean=given.get("mean"),
        std=given.get("std"),
    )
    return asdict(found)


def _activation(tower: Values, quick: bool) -> Activation:
    tanh = (tower.get("act_kwargs") or {}).get("approximate") == "tanh"
    return "quick_gelu" if quick else "gelu_tanh" if tanh else "gelu"


def _epsilon(tower: Values) -> float:
    return (tower.get("norm_kwargs") or {}).get("eps", 1e-5)


def _read_vision(vision: Values, quick: bool) -> dict[str, Any]:
    width = vision.get("width", 768)
    pools = {"tok": "class", "avg": "mean"}
    pooling = vision.get("pool_type", "tok")
    if pooling not in pools or not isinstance(vision.get("layers", 12), int):
        raise UserError(
            f"the OpenCLIP vision tower {dict(vision)} is no plain vision transformer "
            "with pool_type tok or avg, which kdjax needs"
        )
    after = vision.get("final_ln_after_pool", False)
    return {
        "image_size": square_side(vision.get("image_size", 224)),
        "patch_size": vision.get("patch_size", 16),
        "width": width,
        "layers": vision.get("layers", 12),
        "num_heads": width // vision.get("head_width", 64),
        "mlp_width": int(width * vision.get("mlp_ratio", 4.0)),
        "activation": _activation(vision, quick),
        "norm_epsilon": _epsilon(vision),
        "pooling": pools[pooling],
        "pre_norm": not vision.get("no_ln_pre", False),
        "norm_after_pooling": after and pools[pooling] == "mean",
    }


def _read_timm(vision: Values) -> dict[str, Any]:
    name = vision["timm_model_name"]
    found = TIMM_NAME.fullmatch(name)
    if found is None or found[1] not in TIMM_TOWERS:
        raise UserError(
            f"the OpenCLIP vision tower {name!r} of timm is not one of SigLIP's plain "
            "transformers, which kdjax needs"
        )
    width, layers, heads, mlp_width = TIMM_TOWERS[found[1]]
    return {
        "image_size": square_side(vision.get("image_size", int(found[3]))),
        "patch_size": int(found[2]),
        "width": width,
        "layers": layers,
        "num_heads": heads,
        "mlp_width": mlp_width,
        "activation": "gelu_tanh" if TIMM_TANH.fullmatch(name) else "gelu",
        "norm_epsilon": 1e-6,
        "pooling": "attention",
        "class_token": False,
        "pre_norm": False,
        "patch_bias": True,
    }


def _read_text(text: Values, quick: bool) -> TextConfig:
    pooling = text.get("pool_type", "argmax")
    if pooling not in ("argmax", "eos", "last"):
        raise UserError(
            f"the OpenCLIP text tower is pooled by {pooling!r}; kdjax pools by argmax, "
            "eos or last"
        )
    width = text.get("width", 512)
    return TextConfig(
        vocab_size=text.get("vocab_size", 49408),
        context_length=text.get("context_length", 77),
        width=width,
        layers=text.get("layers", 12),
        num_heads=text.get("heads", 8),
        mlp_width=int(width * text.get("mlp_ratio", 4.0)),
        activation=_activation(text, quick),
        norm_epsilon=_epsilon(text),
        pooling=pooling,
        eos_id=text.get("eos_id", 2) if pooling == "eos" else None,
        causal=not text.get("no_causal_mask", False),
    )


def write(config: CLIPConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of open_clip_config.json, and of no other file."""
    vision, text = config.vision, config.text
    timm = vision.pooling == TIMM
    vision_cfg = _write_timm(vision) if timm else _write_vision(vision)
    text_cfg = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "layers": text.layers,
        "heads": text.num_heads,
        "mlp_ratio": _ratio(text),
        "pool_type": text.pooling,
        "no_causal_mask": not text.causal,
        "proj_bias": config.text_projection_bias,
        **({"eos_id": text.eos_id} if text.pooling == "eos" else {}),
        **_write_tower(text),
    }
    bias = config.logit_bias_init
    model = {
        "embed_dim": config.embed_dim,
        "quick_gelu": vision.activation == "quick_gelu",
        **({"custom_text": True} if timm else {}),
        **({} if bias is None else {"init_logit_bias": bias}),
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    images = write_open_clip(vision.preprocessing)
    return {"model_cfg": model, "preprocess_cfg": images}, {}


def _write_vision(vision: VisionConfig) -> dict[str, Any]:
    return {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "width": vision.width,
        "layers": vision.layers,
        "head_width": vision.width // vision.num_heads,
        "mlp_ratio": _ratio(vision),
        "pool_type": {"class": "tok"}.get(vision.pooling, "avg"),
        "no_ln_pre": not vision.pre_norm,
        "final_ln_after_pool": vision.norm_after_pooling,
        **_write_tower(vision),
    }


def _write_timm(vision: VisionConfig) -> dict[str, Any]:
    """Return the words for a tower of timm, which a name says all of.

    Raises:
        UserError: timm has none of that size.
    """
    sizes = (vision.width, vision.layers, vision.num_heads, vision.mlp_width)
    patch, side = vision.patch_size, vision.image_size
    for tower, theirs in TIMM_TOWERS.items():
        if sizes == theirs and side in TIMM_SIZES.get((tower, patch), ()):
            return {
                "image_size": side,
                "timm_model_name": f"{tower}_patch{patch}_siglip_{side}",
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
            }
    raise UserError(
        "OpenCLIP takes vision towers that pool by attention from timm, by name, and "
        f"timm has none of width {vision.width} with {vision.layers} layers that sees "
        f"{side} pixels in patches of {patch}: give another format"
    )


def _ratio(config: VisionConfig | TextConfig) -> float:
    """Return a ratio whose product with the width, cut, is the MLP's width."""
    ratio = config.mlp_width / config.width
    short = int(config.width * ratio) < config.mlp_width
    return math.nextafter(ratio, math.inf) if short else ratio


def _write_tower(config: VisionConfig | TextConfig) -> dict[str, Any]:
    tanh = config.activation == "gelu_tanh"
    return {
        **({"act_kwargs": {"approximate": "tanh"}} if tanh else {}),
        "norm_kwargs": {"eps": config.norm_epsilon},
    }

"""Make tests/golden/open_clip: small random OpenCLIPs and what their code says of them.

Usage: python make_open_clip.py DIRECTORY. Needs torch, open_clip_torch and timm; the
last two may be installed without their dependencies. The tests that read the files
need none of them.

The vision tower of siglip_timm is timm's, as in ViT-B-16-SigLIP. No name that timm
knows is small, so timm is told of one, and siglip_timm/timm_model.json says what it is.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision_stub import open_clip, timm

TRUNK_NAME = "vit_test_patch6_siglip_24"
TRUNK = {
    "img_size": 24, "patch_size": 6, "embed_dim": 28, "depth": 2, "num_heads": 4,
    "mlp_ratio": 3.7362, "class_token": False, "global_pool": "map",
}  # fmt: skip
TEXT = {"context_length": 9, "vocab_size": 50}
BIDIRECTIONAL = {"no_causal_mask": True, "pool_type": "last"}
SQUASH = {"resize_mode": "squash"}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
CASES = {
    "gelu": {
        "embed_dim": 20,
        "vision_cfg": {
            "image_size": 24, "layers": 2, "width": 64, "patch_size": 8,
            "mlp_ratio": 1.5,
        },
        "text_cfg": TEXT | {"width": 24, "heads": 3, "layers": 3},
    },
    "quick_gelu_wide_heads": {
        "embed_dim": 28, "quick_gelu": True,
        "vision_cfg": {
            "image_size": 28, "layers": 3, "width": 28, "head_width": 14,
            "mlp_ratio": 4.3637, "patch_size": 7,
        },
        "text_cfg": TEXT | {"width": 20, "heads": 5, "layers": 2, "mlp_ratio": 2.58},
    },
    "clipa": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 24, "layers": 2, "width": 30, "head_width": 10,
            "patch_size": 6, "no_ln_pre": True, "pool_type": "avg",
            "final_ln_after_pool": True,
        },
        "text_cfg": TEXT | {"width": 24, "heads": 2, "layers": 3} | BIDIRECTIONAL,
    },
    "siglip_timm": {
        "embed_dim": 28, "init_logit_bias": -4, "custom_text": True,
        "vision_cfg": {
            "image_size": 24, "timm_model_name": TRUNK_NAME,
            "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": TEXT | {
            "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 3.7362,
            **BIDIRECTIONAL, "proj_bias": True, "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
}  # fmt: skip
PREPROCESSING = {
    "clipa": SQUASH | {
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
        "interpolation": "bilinear",
    },
    "siglip_timm": SQUASH | HALF,
}  # fmt: skip


def vit_test_patch6_siglip_24(
    pretrained: bool = False,
    pretrained_cfg: None = None,
    pretrained_cfg_overlay: None = None,
    cache_dir: None = None,
    **options: object,
) -> nn.Module:
    return timm.models.VisionTransformer(**TRUNK | options)


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = open_clip.create_model(
        name, force_preprocess_cfg=PREPROCESSING.get(name)
    ).eval()
    with torch.no_grad():  # biases and norms start at constants, which hide mistakes
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs_of(case: dict) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    size, length = case["vision_cfg"]["image_size"], TEXT["context_length"]
    images = rng.normal(size=(4, size, size, 3)).astype(np.float32)
    ids = rng.integers(1, 48, size=(4, length))
    for row, end in enumerate((length - 1, 3, 5, 1)):
        ids[row, end] = 49
        ids[row, end + 1 :] = 0
    return images, ids


def watch(model: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every block's output and attention, which OpenCLIP doesn't return."""
    hidden, attention, seen = [], [], {}

    def ask_for_weights(_: nn.Module, args: tuple, options: dict) -> tuple:
        return args, options | {"need_weights": True, "average_attn_weights": False}

    def keep_weights(_: nn.Module, args: tuple, output: tuple) -> None:
        attention.append(output[1])

    hooks = []
    trunk = getattr(model.visual, "trunk", None)
    blocks = model.visual.transformer.resblocks if trunk is None else trunk.blocks
    for block in blocks:
        hooks.append(block.register_forward_hook(lambda *x: hidden.append(x[2])))
        if trunk is None:
            hooks.append(
                block.attn.register_forward_pre_hook(ask_for_weights, with_kwargs=True)
            )
            hooks.append(block.attn.register_forward_hook(keep_weights))
        else:
            block.attn.fused_attn = False
            drop = block.attn.attn_drop  # what it is given are the weights
            hooks.append(
                drop.register_forward_pre_hook(lambda *x: attention.append(x[1][0]))
            )
    if trunk is not None:
        for key, module in (
            ("vision_last", trunk.norm),
            ("pooled_vision", trunk.attn_pool),
        ):
            hooks.append(
                module.register_forward_hook(
                    lambda *x, key=key: seen.update({key: x[2]})
                )
            )
    model.visual(pixels)
    for hook in hooks:
        hook.remove()
    return {
        "hidden": torch.stack(hidden),
        "attention": torch.stack(attention),
        **seen,
    }


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor]:
    trunk, text = getattr(model.visual, "trunk", None), getattr(model, "text", model)
    if trunk is None:
        patch = model.visual.conv1.weight
        fused = model.visual.transformer.resblocks[1].attn.in_proj_weight
    else:
        patch, fused = trunk.patch_embed.proj.weight, trunk.blocks[1].attn.qkv.weight
    gradients = {
        "grad_patch": patch.grad,
        "grad_token": text.token_embedding.weight.grad,
        "grad_query": fused.grad[: len(fused) // 3],
        "grad_scale": model.logit_scale.grad,
    }
    if trunk is not None:
        gradients["grad_probe"] = trunk.attn_pool.latent.grad
        gradients["grad_bias"] = model.logit_bias.grad
    return gradients


def outputs_of(model: nn.Module, case: dict) -> dict[str, np.ndarray]:
    images, ids = inputs_of(case)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    losses = open_clip.loss
    loss_of = losses.ClipLoss() if model.logit_bias is None else losses.SigLipLoss()
    image, text, *scale_and_bias = model(pixels, torch.tensor(ids))
    loss = loss_of(image, text, *scale_and_bias)
    loss.backward()
    logits, _ = model.get_logits(pixels, torch.tensor(ids))
    values = {
        "image_embeds": image, "text_embeds": text, "logits": logits, "loss": loss,
        **gradients_of(model), "grad_pixels": pixels.grad, **watch(model, pixels),
    }  # fmt: skip
    arrays = {name: value.detach().numpy() for name, value in values.items()}
    return {"images": images, "input_ids": ids, **arrays}


def main(directory: Path) -> None:
    timm.models.register_model(vit_test_patch6_siglip_24)
    with TemporaryDirectory() as configs:
        for name, case in CASES.items():
            (Path(configs) / f"{name}.json").write_text(json.dumps(case))
        open_clip.add_model_config(configs)
    hub = import_module("open_clip.push_to_hf_hub")
    for name, case in CASES.items():
        model, target = model_of(name), directory / name
        target.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), target / "open_clip_model.safetensors")
        config = open_clip.get_model_config(name)
        hub.save_config_for_hf(model, target / "open_clip_config.json", config)
        np.savez_compressed(target / "outputs.npz", **outputs_of(model, case))
    trunk = {"architecture": TRUNK_NAME, "model_args": TRUNK}
    text = json.dumps(trunk, indent=2) + "\n"
    (directory / "siglip_timm" / "timm_model.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

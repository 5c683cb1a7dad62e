"""Make tests/golden/manifests: the names and shapes of real checkpoints' tensors.

Usage: python make_manifests.py DIRECTORY. Needs torch, transformers, open_clip_torch
and timm. The test that reads the files needs none of them.

The hub can't be reached from where this was written: the original class is made on
torch's meta device. "config" has what the shapes depend on and what else is known of
the published config; "made" says from where. A model that OpenCLIP has too must have
as many parameters there. Tensors that layers share stand once, with the range of
layers in braces. Buffers that are not saved are left out; files of older versions may
have position_ids besides.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn
from torchvision_stub import open_clip
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

QUICK, GELU = "quick_gelu", "gelu"
LEGACY_EOS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
CLIP = {
    # name: dim, image, patch, vision and text (width, layers, heads, mlp), activation
    "openai/clip-vit-base-patch32":
        (512, 224, 32, (768, 12, 12, 3072), (512, 12, 8, 2048), QUICK),
    "openai/clip-vit-base-patch16":
        (512, 224, 16, (768, 12, 12, 3072), (512, 12, 8, 2048), QUICK),
    "openai/clip-vit-large-patch14":
        (768, 224, 14, (1024, 24, 16, 4096), (768, 12, 12, 3072), QUICK),
    "openai/clip-vit-large-patch14-336":
        (768, 336, 14, (1024, 24, 16, 4096), (768, 12, 12, 3072), QUICK),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K":
        (1024, 224, 14, (1280, 32, 16, 5120), (1024, 24, 16, 4096), GELU),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k":
        (1280, 224, 14, (1664, 48, 16, 8192), (1280, 32, 20, 5120), GELU),
    "facebook/metaclip-b32-400m":
        (512, 224, 32, (768, 12, 12, 3072), (512, 12, 8, 2048), QUICK),
    "facebook/metaclip-h14-fullcc2.5b":
        (1024, 224, 14, (1280, 32, 16, 5120), (1024, 24, 16, 4096), QUICK),
    "wkcn/TinyCLIP-ViT-8M-16-Text-3M-YFCC15M":
        (512, 224, 16, (256, 10, 4, 1024), (256, 3, 4, 1024), None),
    "wkcn/TinyCLIP-ViT-39M-16-Text-19M-YFCC15M":
        (512, 224, 16, (512, 12, 8, 2048), (512, 6, 8, 2048), None),
    "wkcn/TinyCLIP-ViT-40M-32-Text-19M-LAION400M":
        (512, 224, 32, (512, 12, 8, 2048), (512, 6, 8, 2048), None),
    "wkcn/TinyCLIP-ViT-61M-32-Text-29M-LAION400M":
        (512, 224, 32, (640, 12, 10, 2560), (512, 9, 8, 2048), None),
}  # fmt: skip
SO400M = (1152, 27, 16, 4304)
SIGLIP = {
    # name: vision and text config; what they leave out has the class's default
    "google/siglip-base-patch16-224": ({}, {}),
    "google/siglip-so400m-patch14-384":
        ({"image_size": 384, "patch_size": 14, "tower": SO400M}, {"tower": SO400M}),
    "google/siglip2-base-patch16-224": ({}, {"vocab_size": 256000}),
    "google/siglip2-giant-opt-patch16-256": (
        {"image_size": 256, "tower": (1536, 40, 16, 6144)},
        {"vocab_size": 256000, "projection_size": 1536, "tower": SO400M},
    ),
}  # fmt: skip
OPEN_CLIP = (
    "ViT-S-32", "ViT-S-16",
    "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-g-14", "ViT-bigG-14",
    "ViT-B-32-quickgelu", "ViT-L-14-quickgelu", "ViT-H-14-378-quickgelu",
    "ViT-L-14-CLIPA", "ViT-H-14-CLIPA", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2",
    "ViT-SO400M-14-SigLIP-384",
)  # fmt: skip
TWINS = {
    "openai/clip-vit-base-patch32": "ViT-B-32",
    "openai/clip-vit-base-patch16": "ViT-B-16",
    "openai/clip-vit-large-patch14": "ViT-L-14",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "ViT-bigG-14",
    "facebook/metaclip-b32-400m": "ViT-B-32-quickgelu",
    "facebook/metaclip-h14-fullcc2.5b": "ViT-H-14-quickgelu",
    "google/siglip-base-patch16-224": "ViT-B-16-SigLIP",
    "google/siglip-so400m-patch14-384": "ViT-SO400M-14-SigLIP-384",
    "google/siglip2-base-patch16-224": "ViT-B-16-SigLIP2",
    "google/siglip2-giant-opt-patch16-256": "ViT-gopt-16-SigLIP2-256",
}
SEEN = {
    "openai/clip-vit-base-patch32": "from a public copy of the published config.json",
    "wkcn": "from the sizes in TinyCLIP's own config in github.com/microsoft/Cream, "
    "with 64 wide heads and fourfold MLPs; the published config.json was not seen",
    "": "with the sizes of OpenCLIP's {twin}; the published config.json was not seen, "
    "and what else is here of it is from memory",
}


def tower(width: int, layers: int, heads: int, mlp: int) -> dict:
    return {
        "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": mlp,
    }  # fmt: skip


def clip(name: str) -> tuple[dict, nn.Module]:
    dim, image, patch, vision, text, act = CLIP[name]
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5} if act else {}
    vision = tower(*vision) | {"image_size": image, "patch_size": patch} | shared
    text = tower(*text) | {"vocab_size": 49408, "max_position_embeddings": 77} | shared
    if name.startswith(("openai", "laion")):
        text |= LEGACY_EOS
    config = {
        "model_type": "clip", "projection_dim": dim, "vision_config": vision,
        "text_config": text,
    }  # fmt: skip
    return config, CLIPModel(CLIPConfig.from_dict(config))


def siglip(name: str) -> tuple[dict, nn.Module]:
    config = {"model_type": "siglip"}
    for key, part in zip(("vision", "text"), SIGLIP[name], strict=True):
        rest = {key: value for key, value in part.items() if key != "tower"}
        sizes = tower(*part["tower"]) if "tower" in part else {}
        model_type = {"model_type": f"siglip_{key}_model"}
        config[f"{key}_config"] = model_type | sizes | rest
    return config, SiglipModel(SiglipConfig.from_dict(config))


def open_clip_vit(name: str) -> tuple[dict, nn.Module]:
    config = open_clip.get_model_config(name)
    return config, open_clip.create_model(name, device="meta")


def grouped(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    """Write one entry for the tensors whose names differ in the layer's index."""
    groups = defaultdict(list)
    for name, tensor in tensors.items():
        index = re.search(r"\.(\d+)\.", name)
        pattern = re.sub(r"\.\d+\.", ".{}.", name, count=1)
        groups[pattern].append((int(index[1]) if index else None, list(tensor.shape)))
    shapes = {}
    for pattern, members in groups.items():
        indices, members_shapes = zip(*members, strict=True)
        assert all(shape == members_shapes[0] for shape in members_shapes)
        if "{}" in pattern:
            assert list(indices) == list(range(len(indices)))
            pattern = pattern.replace("{}", f"{{0..{len(indices) - 1}}}")
        shapes[pattern] = members_shapes[0]
    return shapes


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def source_of(name: str, model: nn.Module) -> str:
    if name in OPEN_CLIP:
        return f"from the config in open_clip_torch {open_clip.__version__}"
    twin = TWINS.get(name)
    assert twin is None or parameters(open_clip_vit(twin)[1]) == parameters(model)
    return next(v for k, v in SEEN.items() if name.startswith(k)).format(twin=twin)


def manifest(original: str, name: str, config: dict, model: nn.Module) -> dict:
    made = (
        f"{type(model).__name__} on the meta device, offline, {source_of(name, model)}."
    )
    return {
        "original": original,
        "made": made,
        "config": config,
        "tensors": grouped(model.state_dict()),
    }


def text_of(content: dict) -> str:
    """Return JSON with one tensor a line."""
    *head, tensors = content.items()
    lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head]
    shapes = (f"{json.dumps(name)}: {shape}" for name, shape in tensors[1].items())
    body = ",\n".join(shapes)
    return "{\n" + "\n".join(lines) + f'\n"tensors": {{\n{body}\n}}\n}}\n'


def main(directory: Path) -> None:
    originals = {
        "transformers.CLIPModel": (clip, CLIP),
        "transformers.SiglipModel": (siglip, SIGLIP),
        "open_clip": (open_clip_vit, OPEN_CLIP),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for original, (make, names) in originals.items():
        for name in names:
            with torch.device("meta"):
                content = manifest(original, name, *make(name))
            path = directory / f"{name.replace('/', '--')}.json"
            path.write_text(text_of(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

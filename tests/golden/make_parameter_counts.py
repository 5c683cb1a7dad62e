"""Make tests/golden/parameter_counts.json: how many parameters the originals have.

Usage: python make_parameter_counts.py DIRECTORY. Needs torch, transformers,
open_clip_torch and timm. The test that reads the file needs none of them.

Every model is made on torch's meta device from a random small config, written as its
checkpoint's config file has it. A tower's count includes its projection or its head;
neither includes the scale and the bias of the logits.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torchvision_stub import open_clip
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

EACH = 20


def sizes(rng: random.Random) -> dict:
    heads, head_width = rng.randint(1, 4), rng.choice((4, 6, 8, 10))
    return {
        "hidden_size": heads * head_width, "num_attention_heads": heads,
        "num_hidden_layers": rng.randint(1, 4), "intermediate_size": rng.randint(5, 90),
    }  # fmt: skip


def image_sizes(rng: random.Random) -> dict:
    patch = rng.randint(3, 9)
    remainder = rng.choice((0, 0, patch - 1))
    return {"image_size": patch * rng.randint(1, 5) + remainder, "patch_size": patch}


def text_sizes(rng: random.Random) -> dict:
    return {
        "vocab_size": rng.randint(50, 90), "max_position_embeddings": rng.randint(3, 20)
    }  # fmt: skip


def clip(rng: random.Random) -> tuple[dict, nn.Module]:
    config = {
        "model_type": "clip", "projection_dim": rng.randint(3, 40),
        "vision_config": sizes(rng) | image_sizes(rng),
        "text_config": sizes(rng) | text_sizes(rng),
    }  # fmt: skip
    return config, CLIPModel(CLIPConfig.from_dict(config))


def siglip(rng: random.Random) -> tuple[dict, nn.Module]:
    vision, text = sizes(rng) | image_sizes(rng), sizes(rng) | text_sizes(rng)
    if text["hidden_size"] != vision["hidden_size"] or rng.random() < 0.5:
        text["projection_size"] = vision["hidden_size"]
    config = {"model_type": "siglip", "vision_config": vision, "text_config": text}
    return config, SiglipModel(SiglipConfig.from_dict(config))


def vit(rng: random.Random) -> tuple[dict, nn.Module]:
    heads, head_width = rng.randint(1, 4), rng.choice((4, 6, 8, 10))
    vision = image_sizes(rng) | {
        "width": heads * head_width, "head_width": head_width,
        "layers": rng.randint(1, 4),
    }  # fmt: skip
    heads = rng.randint(1, 4)
    text = {
        "context_length": rng.randint(3, 20), "vocab_size": rng.randint(50, 90),
        "width": heads * rng.choice((4, 6, 8, 10)), "heads": heads,
        "layers": rng.randint(1, 4),
    }  # fmt: skip
    for tower in vision, text:
        if rng.random() < 0.5:
            tower["mlp_ratio"] = round(rng.uniform(1, 5), 4)
    if rng.random() < 0.5:  # as CLIPA
        vision |= {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
        text |= {"pool_type": "last", "no_causal_mask": True}
    config = {"embed_dim": rng.randint(3, 40), "vision_cfg": vision, "text_cfg": text}
    model = open_clip.CLIP(**config)
    return {"model_cfg": config | {"quick_gelu": rng.random() < 0.5}}, model


def counted(family: str, make: Callable, rng: random.Random) -> dict:
    with torch.device("meta"):
        config, model = make(rng)
    counts = {"vision": 0, "text": 0, "logit": 0}
    for name, parameter in model.named_parameters():
        part = "vision" if name.startswith("vis") else "text"
        counts["logit" if name.startswith("logit_") else part] += parameter.numel()
    total = sum(counts.values())
    assert total == sum(parameter.numel() for parameter in model.parameters())
    del counts["logit"]
    return {"family": family, "config": config, "parameters": total, **counts}


def main(directory: Path) -> None:
    rng = random.Random(0)
    families = {"clip": clip, "siglip": siglip, "open_clip": vit}
    rows = [counted(*pair, rng) for pair in families.items() for _ in range(EACH)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    (directory / "parameter_counts.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

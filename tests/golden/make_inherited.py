"""Make tests/golden/inherited: students with weights that TinyCLIP took.

Usage: python make_inherited.py CHECKOUT DIRECTORY, where CHECKOUT is one of
github.com/wkcn/TinyCLIP. Needs torch, open_clip_torch and timm; the last two may be
installed without their dependencies. The test that reads the files needs none of them.

As in the training script there, each tower inherits by itself, its projection with it.
`even` has depths that divide the teacher's. Those of `uneven` do not: the original's
step between layers is then rounded down, so of 6 layers 4 are the first 4 and the last
layers are never seen, where kdjax takes 0, 1, 3 and 4.
"""

import importlib.util
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision_stub import open_clip

HEAD = 4
TEXT = {"context_length": 7, "vocab_size": 40}
SIZES = {  # vision width, layers; text width, layers; joint space
    "teacher": (12, 6, 12, 4, 10),
    "even": (8, 3, 8, 2, 6),
    "uneven": (8, 4, 4, 3, 10),
}


def config_of(name: str) -> dict:
    width, layers, text_width, text_layers, joint = SIZES[name]
    return {
        "embed_dim": joint,
        "vision_cfg": {
            "image_size": 12, "patch_size": 4, "width": width, "layers": layers,
            "head_width": HEAD, "mlp_ratio": 2.0,
        },
        "text_cfg": TEXT | {
            "width": text_width, "layers": text_layers, "heads": text_width // HEAD,
            "mlp_ratio": 2.0,
        },
    }  # fmt: skip


def original(checkout: Path) -> ModuleType:
    path = checkout / "src" / "open_clip" / "weight_inherit.py"
    spec = importlib.util.spec_from_file_location("weight_inherit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_of(name: str) -> nn.Module:
    model = open_clip.create_model(name)
    with torch.no_grad():  # biases and norms start at constants, which hide mistakes
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def inherited(
    module: ModuleType, student: nn.Module, teacher: nn.Module
) -> dict[str, torch.Tensor]:
    def split(model: nn.Module) -> list[dict[str, torch.Tensor]]:
        state = model.state_dict()
        vision = {k: v for k, v in state.items() if k.startswith("visual.")}
        return [vision, {k: v for k, v in state.items() if k not in vision}]

    towers = zip(split(student), split(teacher), strict=True)
    return {
        name: tensor.contiguous()
        for ours, theirs in towers
        for name, tensor in module.weight_inherit(ours, theirs, HEAD).items()
    }


def main(checkout: Path, directory: Path) -> None:
    torch.manual_seed(0)
    with TemporaryDirectory() as configs:
        for name in SIZES:
            (Path(configs) / f"{name}.json").write_text(json.dumps(config_of(name)))
        open_clip.add_model_config(configs)
    hub = importlib.import_module("open_clip.push_to_hf_hub")
    module, teacher = original(checkout), model_of("teacher")
    for name in SIZES:
        model, target = model_of(name), directory / name
        target.mkdir(parents=True, exist_ok=True)
        tensors = teacher.state_dict()
        if name != "teacher":
            tensors = inherited(module, model, teacher)
        save_file(tensors, target / "open_clip_model.safetensors")
        config = open_clip.get_model_config(name)
        hub.save_config_for_hf(model, target / "open_clip_config.json", config)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

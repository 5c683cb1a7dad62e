"""Make tests/golden/clip_kd.npz: what CLIP-KD's released loss says of small inputs.

Usage: python make_clip_kd.py LOSS, where LOSS is src/open_clip/loss.py of
github.com/winycg/CLIP-KD. Needs torch; the test that reads the file does not.

The released loss is defined for several processes only (one process lacks its
normalised features), so it is told of two whose gathered batch is the batch given.
Zeros that it makes on a GPU stay on the CPU here. Its augmented features want
embeddings of one width. It works in float64 on float32 inputs.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

BATCH, STUDENT = 7, 12
CASES = {"equal": 12, "wider": 20}
TERMS = ("clip", "crd", "icl", "cross_kd", "fd", "gd", "afd")


def released(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("released_loss", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.gather_features = lambda image, text, *_: (image, text)
    torch.Tensor.cuda = lambda self: self
    return module


def inputs_of(width: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    arrays = {
        "student_image": 3 * normal(BATCH, STUDENT),
        "student_text": normal(BATCH, STUDENT),
        "student_scale": np.float32(14.3),
        "teacher_image": normal(BATCH, width),
        "teacher_text": 2 * normal(BATCH, width),
        "teacher_scale": np.float32(30.0),
    }
    if width != STUDENT:
        for modality in ("image", "text"):
            arrays[f"{modality}_kernel"] = normal(STUDENT, width) / STUDENT**0.5
            arrays[f"{modality}_bias"] = 0.1 * normal(width)
    return arrays


def fusion_inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    arrays = {}
    for modality in ("image", "text"):
        kernel = rng.normal(size=(2 * STUDENT, STUDENT)) / STUDENT**0.5
        arrays[f"fusion_{modality}_kernel"] = kernel.astype(np.float32)
        bias = 0.1 * rng.normal(size=STUDENT)
        arrays[f"fusion_{modality}_bias"] = bias.astype(np.float32)
    return arrays


def heads_of(loss: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    names = {
        "image": "visual_proj",
        "text": "text_proj",
        "fusion_image": "visual_fusion_proj",
        "fusion_text": "text_fusion_proj",
    }
    return {k: getattr(loss, name) for k, name in names.items() if hasattr(loss, name)}


def loss_of(module: ModuleType, arrays: dict[str, np.ndarray]) -> torch.nn.Module:
    width = arrays["teacher_image"].shape[1]
    weights = {
        f"alpha_{name}_loss": 1.0 for name in ("ckd", "icl", "cross_kd", "fd", "gd")
    }
    weights["alpha_afd_loss"] = float(width == STUDENT)
    args = SimpleNamespace(s_embed_dim=STUDENT, t_embed_dim=width, **weights)
    loss = module.KDClipLoss(args, world_size=2).double()
    for name, head in heads_of(loss).items():
        head.weight.data = torch.tensor(arrays[f"{name}_kernel"].T).double()
        head.bias.data = torch.tensor(arrays[f"{name}_bias"]).double()
    return loss


def leaves_of(
    loss: torch.nn.Module, arrays: dict[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    leaves = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in arrays.items()
        if name.startswith("student")
    }
    leaves["learnt_scale"] = loss.cross_logit_scale
    leaves["fusion_scale"] = loss.fusion_logit_scale
    for name, head in heads_of(loss).items():
        leaves[f"{name}_kernel"] = head.weight
        leaves[f"{name}_bias"] = head.bias
    return leaves


def answers(module: ModuleType, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    loss = loss_of(module, arrays)
    leaves = leaves_of(loss, arrays)
    # The trainer hands the teacher's embeddings over normalised.
    teacher = [
        torch.nn.functional.normalize(torch.tensor(arrays[f"teacher_{m}"]).double())
        for m in ("image", "text")
    ]
    student = [leaves[f"student_{part}"] for part in ("image", "text", "scale")]
    scale = torch.tensor(arrays["teacher_scale"], dtype=torch.float64)
    values = loss(*student, *teacher, scale)
    out = {}
    for name, value in zip(TERMS, values, strict=True):
        if name == "afd" and "fusion_image_kernel" not in arrays:
            continue
        out[f"{name}/value"] = value.detach().numpy()
        gradients = torch.autograd.grad(
            value, list(leaves.values()), retain_graph=True, allow_unused=True
        )
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                kernel = leaf.endswith("kernel")
                array = gradient.T if kernel else gradient
                out[f"{name}/gradient/{leaf}"] = array.numpy()
    return out


def main() -> None:
    module = released(sys.argv[1])
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    drawn = {case: inputs_of(width, rng) for case, width in CASES.items()}
    drawn["equal"] |= fusion_inputs(rng)
    for case, inputs in drawn.items():
        results = inputs | answers(module, inputs)
        arrays |= {f"{case}/{name}": value for name, value in results.items()}
    np.savez_compressed(Path(__file__).with_name("clip_kd.npz"), **arrays)


if __name__ == "__main__":
    main()

"""Make tests/golden/contrastive_losses.npz: what others' losses say of small inputs.

Usage: python make_contrastive_losses.py LOSS, where LOSS is src/open_clip/
clip_soft_loss.py of github.com/wkcn/TinyCLIP. Needs torch, open_clip_torch and timm;
the tests that read the file do not.

`siglip` and `open_clip_distill` are OpenCLIP's, `affinity` is TinyCLIP's. All work in
float64 on float32 inputs, and take embeddings that their callers have normalised.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.nn.functional import normalize
from torchvision_stub import open_clip

BATCH, STUDENT, TEACHER = 7, 12, 20


def tiny_clip(path: str) -> Callable[..., torch.Tensor]:
    # One process has nothing to gather; the installed OpenCLIP lacks the function.
    open_clip.loss.gather_feature = lambda feature, *_: feature
    spec = importlib.util.spec_from_file_location("clip_soft_loss", path)
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ClipSoftLoss(local_loss=True, rank=0, world_size=1)


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    widths = {"student": STUDENT, "teacher": TEACHER}
    scalars = {"student_scale": 14.3, "student_bias": -9.5, "teacher_scale": 30.0}
    return {
        f"{side}_{modality}": rng.normal(size=(BATCH, width)).astype(np.float32)
        for side, width in widths.items()
        for modality in ("image", "text")
    } | {name: np.float32(value) for name, value in scalars.items()}


def values(loss: str, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    student, teacher = (
        [normalize(x[f"{side}_image"]), normalize(x[f"{side}_text"])]
        for side in ("student", "teacher")
    )
    ours, theirs = x["student_scale"], x["teacher_scale"]
    distill = open_clip.loss.DistillClipLoss()
    return {
        "siglip": open_clip.loss.SigLipLoss()(*student, ours, x["student_bias"]),
        "open_clip_distill": distill(*student, ours, *teacher, theirs)[1],
        "affinity": tiny_clip(loss)(*student, ours, *teacher, theirs),
        "affinity_at_50": tiny_clip(loss)(*student, 50.0, *teacher, 50.0),
    }


def main() -> None:
    arrays = inputs()
    x = {
        name: torch.tensor(
            array, dtype=torch.float64, requires_grad=name.startswith("student")
        )
        for name, array in arrays.items()
    }
    leaves = [name for name in x if x[name].requires_grad]
    for name, value in values(sys.argv[1], x).items():
        arrays[f"{name}/value"] = value.detach().numpy()
        gradients = torch.autograd.grad(
            value, [x[leaf] for leaf in leaves], retain_graph=True, allow_unused=True
        )
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                arrays[f"{name}/gradient/{leaf}"] = gradient.numpy()
    np.savez_compressed(Path(__file__).with_name("contrastive_losses.npz"), **arrays)


if __name__ == "__main__":
    main()

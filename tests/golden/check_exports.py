"""Open what `kdjax.save_clip` writes with the original code, and compare the outputs.

Needs kdjax, torch, transformers and open_clip_torch; see `make parity`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torchvision_stub import open_clip
from transformers import CLIPModel, SiglipModel

import kdjax

GOLDEN = Path(__file__).parent
TOLERANCE = 1e-5
CASES = {
    "huggingface_clip/quick_gelu_legacy_eos": ("safetensors", CLIPModel),
    "huggingface_clip/gelu_odd_sizes": ("safetensors", CLIPModel),
    "flax_clip/small": ("safetensors", CLIPModel),
    "siglip/fixed_resolution": ("safetensors", SiglipModel),
    "siglip/wide_projection": ("safetensors", SiglipModel),
    "open_clip/gelu": ("open_clip", None),
    "open_clip/quick_gelu_wide_heads": ("open_clip", None),
    "open_clip/clipa": ("open_clip", None),
}


def embeds(model, golden: dict[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Return the original's normalised embeddings of a case's inputs."""
    pixels = torch.tensor(golden["images"].transpose(0, 3, 1, 2))
    ids = torch.tensor(golden["input_ids"])
    with torch.no_grad():
        if model is not None:
            mask = (
                {"attention_mask": torch.tensor(golden["mask"])}
                if "mask" in golden
                else {}
            )
            opened = model.from_pretrained(folder).eval()
            out = opened(pixel_values=pixels, input_ids=ids, **mask)
            return [out.image_embeds.numpy(), out.text_embeds.numpy()]
        opened = open_clip.create_model(f"local-dir:{folder}").eval()
        image = opened.encode_image(pixels, normalize=True)
        return [image.numpy(), opened.encode_text(ids, normalize=True).numpy()]


def main() -> int:
    wrong = 0
    for case, (format, model) in CASES.items():
        golden = dict(np.load(GOLDEN / case / "outputs.npz"))
        with tempfile.TemporaryDirectory() as folder:
            clip = kdjax.load_clip(str(GOLDEN / case))
            kdjax.save_clip(clip, folder, format=format)
            found = embeds(model, golden, Path(folder))
        expected = [golden["image_embeds"], golden["text_embeds"]]
        error = max(
            np.abs(f - e).max() / np.abs(e).max()
            for f, e in zip(found, expected, strict=True)
        )
        print(f"{case} as {format}: {error:.1e}")
        wrong += not error < TOLERANCE
    return wrong


if __name__ == "__main__":
    sys.exit(main())

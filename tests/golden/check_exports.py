"""Open what `kdjax.save_clip` writes with the original code, and compare the outputs.

Needs kdjax, torch, transformers and open_clip_torch; see `make parity`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from flax import nnx
from make_open_clip import vit_test_patch6_siglip_24
from torchvision_stub import open_clip, timm
from transformers import AutoTokenizer, CLIPModel, SiglipModel

import kdjax
from kdjax.data.tokenizer import train_tokenizer
from kdjax.models import CLIP, architecture
from kdjax.models.zoo import with_vocabulary
from kdjax.weights import open_clip as layout

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
    "open_clip/siglip_timm": ("open_clip", None),
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


def wrong_ids(format: str) -> int:
    """Return how many ids of some texts the original reads unlike we do."""
    texts = ["A red circle.", "a blue square left of a small red circle", ""]
    tokenizer = train_tokenizer(texts)
    config = with_vocabulary(architecture("nano-16"), tokenizer.vocab_size, 3)
    length = config.text.context_length
    with tempfile.TemporaryDirectory() as folder:
        clip = CLIP(config, rngs=nnx.Rngs(0))
        kdjax.save_clip(clip, folder, format=format, tokenizer=tokenizer)
        if format == "open_clip":
            theirs = open_clip.get_tokenizer(f"local-dir:{folder}")(texts).numpy()
        else:
            opened = AutoTokenizer.from_pretrained(folder)
            theirs = opened(texts, padding="max_length", truncation=True)["input_ids"]
    return int((np.array(theirs) != tokenizer.encode(texts, length)).sum())


def main() -> int:
    wrong = 0
    # The golden tower of timm is told of on both sides.
    timm.models.register_model(vit_test_patch6_siglip_24)
    layout.TIMM_TOWERS["vit_test"] = (28, 2, 4, 104)
    layout.TIMM_SIZES["vit_test", 6] = (24,)
    for format in ("safetensors", "open_clip"):
        count = wrong_ids(format)
        print(f"tokenizer with {format}: {count} ids differ")
        wrong += count > 0
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

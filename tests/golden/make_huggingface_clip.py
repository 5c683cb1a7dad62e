"""Make tests/golden/huggingface_clip: small random CLIPs and what PyTorch says of them.

Needs torch and transformers; see `make parity` in the Makefile. The tests that read
the files need neither.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

CASES = {
    "quick_gelu_legacy_eos": {
        "act": "quick_gelu", "eps": 1e-5, "eos": 2, "image": 32, "patch": 8,
        "vision": (32, 3, 2), "text": (24, 2, 3), "dim": 20, "length": 11,
    },
    "gelu_odd_sizes": {
        "act": "gelu", "eps": 1e-6, "eos": 49, "image": 35, "patch": 7,
        "vision": (36, 2, 3), "text": (40, 3, 5), "dim": 28, "length": 9,
    },
}  # fmt: skip


def tower(width: int, layers: int, heads: int, case: dict) -> dict:
    return {
        "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": 3 * width,
        "hidden_act": case["act"], "layer_norm_eps": case["eps"],
    }  # fmt: skip


def model_of(case: dict) -> CLIPModel:
    vision = tower(*case["vision"], case)
    text = tower(*case["text"], case)
    vision |= {"image_size": case["image"], "patch_size": case["patch"]}
    text |= {"vocab_size": 50, "max_position_embeddings": case["length"]}
    text |= {"eos_token_id": case["eos"], "bos_token_id": 48, "pad_token_id": 0}
    config = CLIPConfig(
        vision_config=vision, text_config=text, projection_dim=case["dim"]
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    with torch.no_grad():  # biases and norms start at constants, which hide mistakes
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def outputs_of(model: CLIPModel, case: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    size, length = case["image"], case["length"]
    images = rng.normal(size=(4, size, size, 3)).astype(np.float32)
    ids = rng.integers(1, 48, size=(4, length))
    for row, end in enumerate((length - 1, 3, 5, 1)):
        ids[row, end:] = 49
    mask = np.ones_like(ids)
    mask[1, 1] = 0
    pixels = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    out = model(
        pixel_values=pixels,
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        return_loss=True,
        output_hidden_states=True,
        output_attentions=True,
    )
    out.loss.backward()
    plain = model(pixel_values=pixels, input_ids=torch.tensor(ids))
    vision = model.vision_model(
        pixel_values=pixels, output_hidden_states=True, output_attentions=True
    )
    gradients = {
        "grad_patch": model.vision_model.embeddings.patch_embedding.weight.grad,
        "grad_token": model.text_model.embeddings.token_embedding.weight.grad,
        "grad_query": model.vision_model.encoder.layers[1].self_attn.q_proj.weight.grad,
        "grad_scale": model.logit_scale.grad,
        "grad_pixels": pixels.grad,
    }
    values = {
        "image_embeds": out.image_embeds, "text_embeds": out.text_embeds,
        "logits": out.logits_per_image, "loss": out.loss,
        "unmasked_logits": plain.logits_per_image,
        "hidden": torch.stack(vision.hidden_states[1:]),
        "attention": torch.stack(vision.attentions), **gradients,
    }  # fmt: skip
    arrays = {name: value.detach().numpy() for name, value in values.items()}
    return {"images": images, "input_ids": ids, "mask": mask, **arrays}


def main(directory: Path) -> None:
    for name, case in CASES.items():
        model = model_of(case)
        model.save_pretrained(directory / name)
        np.savez_compressed(directory / name / "outputs.npz", **outputs_of(model, case))
        config = json.loads((directory / name / "config.json").read_text())
        assert config["model_type"] == "clip"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

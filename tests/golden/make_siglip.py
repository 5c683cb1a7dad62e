"""Make tests/golden/siglip: small random SigLIPs and what PyTorch says of them.

Usage: python make_siglip.py DIRECTORY. Needs torch and transformers. The tests that
read the files need neither.

In fixed_resolution the patches leave three pixels of each side over, as in
siglip-so400m-patch14-384; in wide_projection the text tower is narrower than the
vision tower and its head makes up for it, as in siglip2-giant-opt.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import SiglipConfig, SiglipModel

CASES = {
    "fixed_resolution": {
        "act": "gelu", "eps": 1e-5, "image": 27, "patch": 6, "mlp": 65,
        "vision": (28, 3, 2), "text": (28, 2, 4), "head": None, "length": 9,
        "scale": 2.5, "bias": -4.0,
    },
    "wide_projection": {
        "act": "gelu_pytorch_tanh", "eps": 1e-6, "image": 24, "patch": 8, "mlp": 70,
        "vision": (36, 2, 3), "text": (20, 3, 5), "head": 36, "length": 11,
        "scale": 1.5, "bias": -2.0,
    },
}  # fmt: skip


def tower(width: int, layers: int, heads: int, case: dict) -> dict:
    return {
        "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": case["mlp"],
        "hidden_act": case["act"], "layer_norm_eps": case["eps"],
    }  # fmt: skip


def model_of(case: dict) -> SiglipModel:
    vision = tower(*case["vision"], case)
    text = tower(*case["text"], case)
    vision |= {"image_size": case["image"], "patch_size": case["patch"]}
    text |= {"vocab_size": 50, "max_position_embeddings": case["length"]}
    text |= {"projection_size": case["head"], "eos_token_id": 1, "pad_token_id": 1}
    config = SiglipConfig(vision_config=vision, text_config=text)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = SiglipModel(config).eval()
    with torch.no_grad():  # biases and norms start at constants, which hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.logit_scale.fill_(case["scale"])  # zero at first, in both
        model.logit_bias.fill_(case["bias"])
    return model


def outputs_of(model: SiglipModel, case: dict) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    size, length = case["image"], case["length"]
    images = rng.normal(size=(4, size, size, 3)).astype(np.float32)
    ids = rng.integers(2, 50, size=(4, length))
    for row, end in enumerate((length - 1, 3, 5, 1)):
        ids[row, end:] = 1  # a text ends with what pads it
    pixels = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    inputs = {"pixel_values": pixels, "input_ids": torch.tensor(ids)}
    out = model(**inputs, return_loss=True)
    out.loss.backward()
    vision = model.vision_model(
        pixel_values=pixels, output_hidden_states=True, output_attentions=True
    )
    gradients = {
        "grad_patch": model.vision_model.embeddings.patch_embedding.weight.grad,
        "grad_token": model.text_model.embeddings.token_embedding.weight.grad,
        "grad_query": model.vision_model.encoder.layers[1].self_attn.q_proj.weight.grad,
        "grad_probe": model.vision_model.head.probe.grad,
        "grad_scale": model.logit_scale.grad, "grad_bias": model.logit_bias.grad,
        "grad_pixels": pixels.grad,
    }  # fmt: skip
    values = {
        "image_embeds": out.image_embeds, "text_embeds": out.text_embeds,
        "logits": out.logits_per_image, "loss": out.loss,
        "hidden": torch.stack(vision.hidden_states[1:]),
        "attention": torch.stack(vision.attentions),
        "vision_last": vision.last_hidden_state,
        "pooled_vision": vision.pooler_output, **gradients,
    }  # fmt: skip
    arrays = {name: value.detach().numpy() for name, value in values.items()}
    return {"images": images, "input_ids": ids, **arrays}


def main(directory: Path) -> None:
    for name, case in CASES.items():
        model = model_of(case)
        model.save_pretrained(directory / name)
        np.savez_compressed(directory / name / "outputs.npz", **outputs_of(model, case))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

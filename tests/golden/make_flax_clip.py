"""Make tests/golden/flax_clip: a small random Flax CLIP and what Flax says of it.

Usage: python make_flax_clip.py DIRECTORY, in Python 3.11 with transformers==4.49.0
flax==0.8.5 jax==0.4.34 jaxlib==0.4.34 numpy==2.4.6 scipy==1.17.1 and no torch. The
tests that read the files need none of these versions.

The config file leaves out what has transformers' default value.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from transformers import CLIPConfig, FlaxCLIPModel

VISION = {
    "hidden_size": 28, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 60, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "image_size": 24, "patch_size": 6,
}  # fmt: skip
TEXT = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 54, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "vocab_size": 50, "max_position_embeddings": 9,
    "bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 0,
}  # fmt: skip


def model_of() -> FlaxCLIPModel:
    config = CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=20)
    model = FlaxCLIPModel(config, seed=0)
    rng = np.random.default_rng(0)

    def perturbed(leaf: jax.Array) -> np.ndarray:
        noise = 0.2 * rng.normal(size=leaf.shape) if leaf.ndim else 0
        return np.asarray(leaf + noise, np.float32)

    # Biases and norms start at constants, which hide mistakes.
    model.params = jax.tree_util.tree_map(perturbed, model.params)
    return model


def outputs_of(model: FlaxCLIPModel) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    size, length = VISION["image_size"], TEXT["max_position_embeddings"]
    images = rng.normal(size=(4, size, size, 3)).astype(np.float32)
    ids = rng.integers(1, 48, size=(4, length))
    for row, end in enumerate((length - 1, 3, 5, 1)):
        ids[row, end:] = 49
    mask = np.ones_like(ids)
    mask[1, 1] = 0
    pixels = images.transpose(0, 3, 1, 2)
    out = model(input_ids=ids, pixel_values=pixels, attention_mask=mask)
    plain = model(input_ids=ids, pixel_values=pixels)
    vision = model.module.bind({"params": model.params}).vision_model(
        images, output_hidden_states=True
    )
    values = {
        "image_embeds": out.image_embeds, "text_embeds": out.text_embeds,
        "logits": out.logits_per_image, "unmasked_logits": plain.logits_per_image,
        "hidden": np.stack(vision.hidden_states[1:]),
    }  # fmt: skip
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return {"images": images, "input_ids": ids, "mask": mask, **arrays}


def main(directory: Path) -> None:
    model = model_of()
    model.save_pretrained(directory / "small")
    np.savez_compressed(directory / "small" / "outputs.npz", **outputs_of(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

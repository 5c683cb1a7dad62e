"""Architectures by name."""

import difflib
from dataclasses import replace

from kdjax.errors import UserError
from kdjax.models.config import CLIPConfig, TextConfig, VisionConfig

CLIP_VOCAB, CLIP_CONTEXT, CLIP_EOS = 49_408, 77, 49_407


def _vit(
    vision: tuple[int, int, int], text: tuple[int, int, int], patch: int, embed: int
) -> CLIPConfig:
    """Return a 224-pixel CLIP from (width, layers, heads) of both towers."""
    width, layers, heads = vision
    text_width, text_layers, text_heads = text
    return CLIPConfig(
        vision=VisionConfig(
            image_size=224,
            patch_size=patch,
            width=width,
            layers=layers,
            num_heads=heads,
            mlp_width=4 * width,
        ),
        text=TextConfig(
            vocab_size=CLIP_VOCAB,
            context_length=CLIP_CONTEXT,
            eos_id=CLIP_EOS,
            width=text_width,
            layers=text_layers,
            num_heads=text_heads,
            mlp_width=4 * text_width,
        ),
        embed_dim=embed,
    )


def _tiny(width: int, layers: int, patch: int) -> CLIPConfig:
    """Return a 64-pixel CLIP for the data sets that come with the package.

    Its vocabulary is that of the tokenizer it is trained with (see `with_vocabulary`);
    its activation is the one that is cheap on CPUs.
    """
    clip = _vit((width, layers, width // 16), (32, 1, 2), patch, 64)
    return replace(
        clip,
        vision=replace(clip.vision, image_size=64, activation="quick_gelu"),
        text=replace(
            clip.text,
            vocab_size=256,
            context_length=40,
            eos_id=3,
            activation="quick_gelu",
        ),
    )


ARCHITECTURES: dict[str, CLIPConfig] = {
    # CLIP-KD's student (arXiv:2307.12732).
    "vit-t-16": _vit((192, 12, 3), (384, 12, 6), 16, 512),
    # As OpenCLIP has them.
    "vit-s-32": _vit((384, 12, 6), (384, 12, 6), 32, 384),
    "vit-s-16": _vit((384, 12, 6), (384, 12, 6), 16, 384),
    # TinyCLIP's students by manual inheritance (arXiv:2309.12314), named by the
    # parameters that their image towers have.
    "tinyclip-8m-16": _vit((256, 10, 4), (256, 3, 4), 16, 512),
    "tinyclip-39m-16": _vit((512, 12, 8), (512, 6, 8), 16, 512),
    "tinyclip-40m-32": _vit((512, 12, 8), (512, 6, 8), 32, 512),
    "tinyclip-61m-32": _vit((640, 12, 10), (512, 9, 8), 32, 512),
    "vit-b-32": _vit((768, 12, 12), (512, 12, 8), 32, 512),
    "vit-b-16": _vit((768, 12, 12), (512, 12, 8), 16, 512),
    "vit-l-14": _vit((1024, 24, 16), (768, 12, 12), 14, 768),
    # For the data sets that come with the package.
    "nano-16": _tiny(16, 1, 16),
    "nano-8": _tiny(16, 1, 8),
    "tiny-16": _tiny(32, 2, 16),
    "tiny-8": _tiny(32, 2, 8),
    "mini-8": _tiny(48, 3, 8),
    "small-8": _tiny(64, 4, 8),
}


# What has the sizes of an architecture on the hub, which a plan does not ask.
ON_THE_HUB = {
    "openai/clip-vit-base-patch32": "vit-b-32",
    "openai/clip-vit-base-patch16": "vit-b-16",
    "openai/clip-vit-large-patch14": "vit-l-14",
    "timm/vit_base_patch16_clip_224.laion400m_e32": "vit-b-16",
    "timm/vit_large_patch14_clip_224.laion400m_e32": "vit-l-14",
}


def architecture_names() -> list[str]:
    """Return the registered names."""
    return list(ARCHITECTURES)


def architecture(name: str) -> CLIPConfig:
    """Return the config of a registered architecture.

    Raises:
        UserError: there is none of that name; the nearest is named.
    """
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    nearest = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=1, cutoff=0.0)
    raise UserError(
        f"no architecture is called {name!r}; did you mean {nearest[0]!r}? "
        f"(registered: {', '.join(ARCHITECTURES)})"
    )


def with_vocabulary(config: CLIPConfig, vocab_size: int, eos_id: int) -> CLIPConfig:
    """Return the config with another tokenizer's vocabulary."""
    return replace(
        config, text=replace(config.text, vocab_size=vocab_size, eos_id=eos_id)
    )

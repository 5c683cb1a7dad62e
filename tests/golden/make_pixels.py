"""Make tests/golden/pixels.npz: what OpenCLIP's own transform makes of small images.

Usage: python make_pixels.py DIRECTORY. Needs torch, torchvision, open_clip_torch. The
tests that read the file need none of them.

An image is in the file as MODE_WIDTHxHEIGHT, the bytes of `Image.tobytes`; what becomes
of it as that name with the rule and the interpolation.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

# What it registers a torch for CPUs lacks beside a torchvision for GPUs.
META = "torchvision._meta_registrations"
sys.modules[META] = ModuleType(META)
transform = import_module("open_clip.transform")

SIZE = 12
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
# Crops that begin at a whole and at a half pixel, of both parities; and enlarging.
SHAPES = ((31, 23), (20, 27), (23, 40), (9, 7), (12, 12), (2, 33))
MODES = {"L": 1, "LA": 2, "RGBA": 4, "CMYK": 4, "P": 1}
ALL = [(r, i) for r in ("shortest", "squash") for i in ("bicubic", "bilinear")]


def picture(
    rng: np.random.Generator, mode: str, width: int, height: int
) -> Image.Image:
    values = rng.integers(0, 256, (height, width, MODES.get(mode, 3)), dtype=np.uint8)
    image = Image.frombytes(mode, (width, height), values.tobytes())
    if mode == "P":
        image.putpalette([(7 * i) % 256 for i in range(768)])
    return image


def main(directory: Path) -> None:
    rng, found = np.random.default_rng(0), {}
    cases = [("RGB", *shape) for shape in SHAPES] + [(mode, 31, 23) for mode in MODES]
    for mode, width, height in cases:
        name = f"{mode}_{width}x{height}"
        image = picture(rng, mode, width, height)
        found[name] = np.frombuffer(image.tobytes(), np.uint8)
        for rule, interpolation in ALL if mode == "RGB" else ALL[1:3]:
            settings = transform.PreprocessCfg(
                size=SIZE, mean=MEAN, std=STD,
                interpolation=interpolation, resize_mode=rule,
            )  # fmt: skip
            pixels = transform.image_transform_v2(settings, is_train=False)(image)
            key = f"{name}_{rule}_{interpolation}"
            found[key] = pixels.numpy().transpose(1, 2, 0)
    directory.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(directory / "pixels.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

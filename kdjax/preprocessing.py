"""How a model wants its images, and how the files of both layouts say it."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from etils import epath

from kdjax.errors import UserError
from kdjax.files import read_json

Interpolation = Literal["bicubic", "bilinear"]
Resize = Literal["shortest", "squash"]
Family = Literal["clip", "siglip"]
Values = Mapping[str, Any]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

# `transformers` writes Pillow's numbers.
RESAMPLE: dict[Any, Interpolation] = {2: "bilinear", 3: "bicubic"}
PROCESSORS: dict[str, Family] = {
    "CLIPImageProcessor": "clip",
    "CLIPFeatureExtractor": "clip",
    "SiglipImageProcessor": "siglip",
}
# What `transformers` takes for a key that a file leaves out.
COMMON = {
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
}
DEFAULTS: dict[Family, dict[str, Any]] = {
    "clip": {
        **COMMON,
        "size": {"shortest_edge": 224},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "image_mean": OPENAI_MEAN,
        "image_std": OPENAI_STD,
    },
    "siglip": {
        **COMMON,
        "size": {"height": 224, "width": 224},
        "do_center_crop": False,
        "image_mean": HALF,
        "image_std": HALF,
    },
}
# Settings without which the pixels would be others; no other value can be expressed.
NEEDED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_pad": False,
    "use_square_size": False,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes a model's input.

    Attributes:
        image_size: side of the square in pixels.
        mean: per channel, subtracted from images in [0, 1].
        std: per channel, divided by.
        interpolation: of the resizing, always antialiased.
        resize: "shortest", the shorter side to `image_size` and then the centre; or
            "squash", both sides to `image_size`.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    resize: Resize = "shortest"


def square_side(size: Any) -> int:
    """Return the side of a square that is written as a number or as a pair.

    Raises:
        UserError: it is no square.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UserError(f"images or patches of {size} are not square: they must be")
    return sides.pop()


def channels(values: float | Iterable[float]) -> tuple[float, float, float]:
    """Return the numbers of red, green and blue; a single one is that of all.

    Raises:
        ValueError: there are not three.
    """
    given = [values] * 3 if isinstance(values, int | float) else values
    red, green, blue = map(float, given)
    return red, green, blue


def image_settings(directory: epath.Path) -> dict[str, Any] | None:
    """Return what a directory in Hugging Face's layout says of images, if it does.

    Newer files keep it in processor_config.json beside the tokenizer's settings; that
    goes first, as in `transformers`.

    Raises:
        UserError: a file is damaged.
    """
    both, alone = (
        directory / name
        for name in ("processor_config.json", "preprocessor_config.json")
    )
    nested = read_json(both).get("image_processor") if both.exists() else None
    if isinstance(nested, dict):
        return nested
    return read_json(alone) if alone.exists() else None


def hugging_face_default(family: Family, image_size: int = 224) -> Preprocessing:
    """Return how a family sees images where no file says it."""
    default = DEFAULTS[family]
    return Preprocessing(
        image_size=image_size,
        mean=channels(default["image_mean"]),
        std=channels(default["image_std"]),
        resize="shortest" if family == "clip" else "squash",
    )


def read_hugging_face(values: Values, family: Family) -> Preprocessing:
    """Return what a preprocessor_config.json says; the rest has the family's defaults.

    Args:
        values: the file's content.
        family: of the model, for a file that names no processor.

    Raises:
        UserError: it says what cannot be expressed here.
    """
    # As there, a switch that is null is off, and anything else is left out.
    given = {
        key: value
        for key, value in values.items()
        if value is not None or key.startswith("do_")
    }
    found = {**DEFAULTS[_kind(given, family)], **given}
    for key, needed in NEEDED.items():
        if bool(found.get(key, needed)) != needed:
            raise UserError(f"{key} is {found[key]!r}; only {needed!r} is understood")
    if not math.isclose(found["rescale_factor"], 1 / 255):
        raise UserError(
            f"rescale_factor is {found['rescale_factor']!r}; only 1/255 is understood"
        )
    if found["resample"] not in RESAMPLE:
        raise UserError(
            f"resample is {found['resample']!r}; 2 (bilinear) and 3 (bicubic) are "
            "understood"
        )
    size, resize = _size_and_rule(found)
    return Preprocessing(
        image_size=size,
        mean=_numbers(found, "image_mean"),
        std=_numbers(found, "image_std"),
        interpolation=RESAMPLE[found["resample"]],
        resize=resize,
    )


def as_far_as_known(
    read: Callable[[], Preprocessing], default: Preprocessing, **numbers: Any
) -> Preprocessing:
    """Return what `read` gives; where it fails, the default with what can be had.

    Weights can be loaded whatever a preprocessor's file says. A processor is strict.

    Args:
        read: reads the file's content.
        default: of the family.
        numbers: the file's `mean` and `std`, which a tower needs most.
    """
    try:
        return read()
    # What a damaged file makes of it is of many kinds.
    except Exception:
        known: dict[str, Any] = {}
        for key, values in numbers.items():
            with suppress(UserError):
                known[key] = _numbers({key: values}, key)
        return replace(default, **known)


def _kind(given: Values, family: Family) -> Family:
    name = given.get("image_processor_type", given.get("feature_extractor_type"))
    if name is None:
        return family
    kind = PROCESSORS.get(str(name).removesuffix("Fast").removesuffix("Pil"))
    if kind is None:
        raise UserError(
            f"the image processor {name!r} is of another family; "
            f"{', '.join(PROCESSORS)} are understood"
        )
    return kind


def _size_and_rule(found: Values) -> tuple[int, Resize]:
    """Return the side of the square, and how an image comes to it."""
    size, crop = _sides(found["size"]), found.get("crop_size")
    side = next(iter(size.values()), None)
    square = {"height": side, "width": side}
    cropped = bool(found["do_center_crop"])
    kept = not cropped or crop in (side, square)
    if isinstance(side, int) and size == square and kept:
        return side, "squash"
    if isinstance(side, int) and size == {"shortest_edge": side} and cropped and kept:
        return side, "shortest"
    raise UserError(
        f"size {found['size']!r} with do_center_crop {found['do_center_crop']!r} and "
        f"crop_size {crop!r} cannot be expressed; a shortest_edge with a centre crop "
        "of that side, or a square height and width, can"
    )


def _sides(size: Any) -> dict[str, Any]:
    """Return a size as newer files write it: older ones have a number or a pair."""
    if isinstance(size, dict):
        return {key: side for key, side in size.items() if side is not None}
    if isinstance(size, list) and len(size) == 2:
        return dict(zip(("height", "width"), size, strict=True))
    return {"shortest_edge": size}


def _numbers(found: Values, key: str) -> tuple[float, float, float]:
    try:
        numbers = channels(found[key])
    except (TypeError, ValueError) as error:
        raise UserError(f"{key} is {found[key]!r} and not three numbers") from error
    if key.endswith("std") and 0 in numbers:
        raise UserError(f"{key} is {found[key]!r}, by which nothing can be divided")
    return numbers


def write_hugging_face(images: Preprocessing, family: Family) -> dict[str, Any]:
    """Return the content of a complete preprocessor_config.json."""
    names = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}
    side, shortest = images.image_size, images.resize == "shortest"
    square = {"height": side, "width": side}
    return {
        **COMMON,
        "image_processor_type": names[family],
        "size": {"shortest_edge": side} if shortest else square,
        "resample": next(k for k, v in RESAMPLE.items() if v == images.interpolation),
        "do_center_crop": shortest,
        "crop_size": square,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
    }


def read_open_clip(values: Values, image_size: int) -> Preprocessing:
    """Return what a `preprocess_cfg` says; the rest has OpenCLIP's defaults.

    Args:
        values: the content of `preprocess_cfg`.
        image_size: of the model, which OpenCLIP takes whatever `size` says.

    Raises:
        UserError: it says what cannot be expressed here.
    """
    found = {key: value for key, value in values.items() if value is not None}
    interpolation = found.get("interpolation", "bicubic")
    resize = found.get("resize_mode", "shortest")
    for key, value, known in (
        ("mode", found.get("mode", "RGB"), ("RGB",)),
        ("interpolation", interpolation, ("bicubic", "bilinear", "random")),
        ("resize_mode", resize, ("shortest", "squash")),
    ):
        if value not in known:
            raise UserError(
                f"preprocess_cfg.{key} is {value!r}; {', '.join(known)} can be "
                "expressed"
            )
    return Preprocessing(
        image_size=image_size,
        mean=_numbers({"mean": OPENAI_MEAN, **found}, "mean"),
        std=_numbers({"std": OPENAI_STD, **found}, "std"),
        # A random one is drawn in training; else OpenCLIP takes the cubic.
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
        resize=resize,
    )


def write_open_clip(images: Preprocessing) -> dict[str, Any]:
    """Return the content of a complete `preprocess_cfg`."""
    return {
        "size": [images.image_size, images.image_size],
        "mode": "RGB",
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "resize_mode": images.resize,
        "fill_color": 0,
    }

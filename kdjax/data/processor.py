"""What comes with a model: the pixels and the ids that it takes."""

import dataclasses
import functools
import html
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from etils import epath
from jaxtyping import Float32, Int32
from PIL import Image

from kdjax.data.images import RESAMPLING, open_clip_square, open_image
from kdjax.data.tokenizer import Tokenizer, load_tokenizer
from kdjax.errors import UserError
from kdjax.hub import family_of, find_model, without_advice
from kdjax.preprocessing import (
    Preprocessing,
    hugging_face_default,
    image_settings,
    read_hugging_face,
    read_open_clip,
    square_side,
)

One: TypeAlias = str | bytes | os.PathLike | Image.Image
CONTEXT_LENGTH = {"clip": 77, "siglip": 64, "open_clip": 77}


@dataclass(frozen=True, kw_only=True)
class Processor(Preprocessing):
    """Turns images and texts into what a model takes, as the original library does.

    Attributes:
        tokenizer: of the model's texts.
        context_length: of a text in tokens, to which it is cut or padded.
        composite: whether what is transparent is laid on white; else alpha is dropped.
        original: whose pixels and ids these are. OpenCLIP converts colours after
            resizing, may cut a pixel beside, and reads HTML entities in texts.
    """

    tokenizer: Tokenizer
    context_length: int
    composite: bool = True
    original: Literal["transformers", "open_clip"] = "transformers"

    def images(
        self, images: One | Sequence[One | np.ndarray] | np.ndarray
    ) -> Float32[np.ndarray, "B S S 3"]:
        """Return normalised pixels.

        Args:
            images: files (see `open_image`), PIL images, which are taken as the
                original takes them, or uint8 arrays [H, W, 3]; many or one.

        Raises:
            UserError: a file cannot be read, or an array is no such image.
        """
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        given: Any = images if many else [images]
        opened = [_as_pil(image) for image in given]
        if self.original == "open_clip":
            cut = self.image_size, self.interpolation, self.resize
            opened = [open_clip_square(image, *cut) for image in opened]
        if not self.composite:
            opened = [image.convert("RGB") for image in opened]
        pixels = np.empty((len(opened), *(self.image_size,) * 2, 3), np.float32)
        for row, image in enumerate(opened):
            (channels,) = self._theirs(image)["pixel_values"]
            pixels[row] = channels.transpose(1, 2, 0)
        return pixels

    def texts(self, texts: str | Iterable[str]) -> Int32[np.ndarray, "B L"]:
        """Return ids, each text cut and padded to `context_length`.

        Raises:
            UserError: they are no texts.
        """
        many = isinstance(texts, Iterable) and not isinstance(texts, str)
        given: list[Any] = list(texts) if many else [texts]
        if not all(isinstance(text, str) for text in given):
            said = reprlib.repr(texts)
            raise UserError(f"the texts are {said}; give one, or a list of them")
        if self.original == "open_clip":
            # Twice, as there: what was escaped twice comes out too.
            given = [html.unescape(html.unescape(text)).strip() for text in given]
        return self.tokenizer.encode(given, self.context_length)

    @functools.cached_property
    def _theirs(self) -> Any:
        """The image processor of `transformers` with these settings."""
        side, shortest = self.image_size, self.resize == "shortest"
        square = {"height": side, "width": side}
        with without_advice():
            from transformers import CLIPImageProcessorPil

        return CLIPImageProcessorPil(
            size={"shortest_edge": side} if shortest else square,
            crop_size=square,
            do_center_crop=shortest,
            resample=RESAMPLING[self.interpolation],
            image_mean=list(self.mean),
            image_std=list(self.std),
            do_convert_rgb=self.composite,
        )


def _as_pil(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | bytes | os.PathLike):
        return open_image(image)
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"a {type(image).__name__} is no image: give a path, bytes, a PIL image or "
            "a uint8 array [height, width, 3]"
        )
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or not image.size
    ):
        raise UserError(
            f"an array of {image.dtype} {list(image.shape)} is no image: give uint8 "
            "[height, width, 3]"
        )
    return Image.fromarray(image)


def load_processor(
    name_or_directory: str | os.PathLike[str], *, revision: str | None = None
) -> Processor:
    """Return the processor of a model from a directory or from the hub.

    Read are Hugging Face's layout and OpenCLIP's; no weights are fetched.

    Args:
        name_or_directory: a local directory, one in a bucket, or a name on the hub.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: a file is missing or damaged, the model is of another family, or it
            wants its images or texts in a way that cannot be expressed.
    """
    path = find_model(name_or_directory, revision=revision)
    family, values = family_of(path)
    try:
        found = (
            _of_open_clip(values)
            if family == "open_clip"
            else _of_hugging_face(path, family, values)
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    # What a damaged config makes of it is of many kinds.
    except Exception as error:
        raise UserError(
            f"the configs in {path} cannot be understood ({error}): fetch them again"
        ) from error
    length = found["context_length"]
    if not isinstance(length, int) or length < 1:
        raise UserError(f"{path}: the context length is {length!r}; correct its config")
    return Processor(**found, tokenizer=load_tokenizer(str(path)))


def _of_hugging_face(
    path: epath.Path, family: Any, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all of a processor but its tokenizer."""
    vision, text = (values.get(key) or {} for key in ("vision_config", "text_config"))
    size = square_side(vision.get("image_size", 224))
    settings = image_settings(path)
    if settings is None:
        images = hugging_face_default(family, size)
    else:
        images = read_hugging_face(settings, family)
    if images.image_size != size:
        raise UserError(
            f"the preprocessor makes images of {images.image_size} pixels and the "
            f"model sees {size}: correct one of the two files"
        )
    return {
        **dataclasses.asdict(images),
        "context_length": text.get("max_position_embeddings", CONTEXT_LENGTH[family]),
        "composite": bool((settings or {}).get("do_convert_rgb", True)),
        "original": "transformers",
    }


def _of_open_clip(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a processor but its tokenizer."""
    model = values.get("model_cfg", values)
    vision, text = model["vision_cfg"], model["text_cfg"]
    size = square_side(vision.get("image_size", 224))
    return {
        **dataclasses.asdict(read_open_clip(values.get("preprocess_cfg", {}), size)),
        "context_length": text.get("context_length", CONTEXT_LENGTH["open_clip"]),
        "composite": False,
        "original": "open_clip",
    }

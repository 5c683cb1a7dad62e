"""Image files, opened as `transformers` does, and squares, cut as OpenCLIP does."""

import io
import os

from etils import epath
from PIL import Image, ImageOps

from kdjax.errors import UserError
from kdjax.preprocessing import Interpolation, Resize

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def open_image(file: str | os.PathLike[str] | bytes) -> Image.Image:
    """Return an image file upright and in RGB, as `load_image` of `transformers`.

    It is turned by its EXIF orientation. Alpha is dropped, so that the colours beneath
    are seen; of more than one frame the first is taken; 16-bit greys above 255 are
    white. A colour that a file names as transparent stays in `info`, by which an image
    processor makes it white.

    Args:
        file: a path, local or in a bucket, or the content.

    Raises:
        UserError: it is missing, damaged, cut off or no image.
    """
    named = f"image of {len(file)} bytes" if isinstance(file, bytes) else str(file)
    try:
        content = file if isinstance(file, bytes) else epath.Path(file).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image)
        # Pillow drops these with a warning.
        if isinstance(upright.info.get("transparency"), bytes):
            del upright.info["transparency"]
        return upright.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"the image {named} is missing; check its name") from error
    # What a damaged file makes of the decoders is of many kinds.
    except Exception as error:
        raise UserError(
            f"{named} cannot be read as an image ({error}): fetch it again"
        ) from error


def open_clip_square(
    image: Image.Image, size: int, interpolation: Interpolation, resize: Resize
) -> Image.Image:
    """Return the RGB square that OpenCLIP makes of an image.

    It resizes an image in its own mode and converts it afterwards, and it rounds the
    corner of the crop to the nearest even number.
    """
    sides, short = image.size, min(image.size)
    if resize == "squash":
        new = [size, size]
    else:
        new = [int(size * side / short) for side in sides]
    left, top = (round((side - size) / 2) for side in new)
    resized = image.resize((new[0], new[1]), RESAMPLING[interpolation])
    return resized.crop((left, top, left + size, top + size)).convert("RGB")

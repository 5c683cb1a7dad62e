"""Image files of every kind that is told apart."""

import io

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
ORIENTATION = 0x0112


def noise(width=31, height=23, channels=3):
    """Return random uint8 pixels."""
    values = RNG.integers(0, 256, (height, width, channels), np.uint8)
    return values[..., 0] if channels == 1 else values


def encoded(image, format="PNG", **options):
    """Return an image's file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned(orientation):
    """Return a file that a camera turned."""
    image = Image.fromarray(noise())
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    return encoded(image, exif=exif)


def palette(**options):
    return encoded(Image.fromarray(noise()).quantize(16), **options)


def animated():
    frames = [Image.fromarray(noise()) for _ in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def greys_of_16_bits():
    values = np.arange(31 * 23, dtype=np.uint16).reshape(23, 31)
    return encoded(Image.fromarray(values))


def one_colour_transparent():
    pixels = noise()
    pixels[5:15] = 1, 2, 3
    return encoded(Image.fromarray(pixels), transparency=(1, 2, 3))


def rgb(width, height):
    return encoded(Image.fromarray(noise(width, height)))


FILES = {
    "RGB": rgb(31, 23),
    "JPEG": encoded(Image.fromarray(noise()), "JPEG"),
    "WebP": encoded(Image.fromarray(noise()), "WEBP", lossless=True),
    "RGBA": encoded(Image.fromarray(noise(channels=4))),
    "grey": encoded(Image.fromarray(noise(channels=1))),
    "grey with alpha": encoded(Image.fromarray(noise(channels=2))),
    "one bit": encoded(Image.fromarray(noise(channels=1)).convert("1")),
    "palette": palette(),
    "palette with a transparent colour": palette(transparency=3),
    "palette with an alpha each": palette(transparency=bytes(range(0, 160, 10))),
    "a transparent colour": one_colour_transparent(),
    "a transparent grey": encoded(Image.fromarray(noise(channels=1)), transparency=7),
    "CMYK": encoded(Image.fromarray(noise()).convert("CMYK"), "JPEG"),
    "16 bit": greys_of_16_bits(),
    "animated": animated(),
    **{f"turned {way}": turned(way) for way in range(1, 9)},
    "wide": rgb(500, 1),
    "high": rgb(3, 500),
    "smaller than the crop": rgb(9, 7),
    "one pixel": rgb(1, 1),
    "square": rgb(24, 24),
    "crop from half a pixel": rgb(24, 27),
}

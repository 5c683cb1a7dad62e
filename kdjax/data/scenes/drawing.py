"""How a scene becomes pixels: signed distances, so that edges are smooth at any size.

A signed distance is negative inside a shape and positive outside; the share of a pixel
that the shape covers is 1/2 minus the distance in pixels, held in [0, 1].
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float32, UInt8

from kdjax.data.scenes.world import Scene, Thing

Plane = Float32[np.ndarray, "h w"]
Row = Float32[np.ndarray, "1 w"]
Column = Float32[np.ndarray, "h 1"]
Planes = Float32[np.ndarray, "n h w"]
Rows = Float32[np.ndarray, "n 1 w"]
Columns = Float32[np.ndarray, "n h 1"]
Scales = Float32[np.ndarray, "n 1 1"]

_RGB = {
    "red": (208, 28, 36),
    "orange": (246, 132, 16),
    "yellow": (244, 218, 42),
    "green": (34, 146, 58),
    "cyan": (58, 202, 214),
    "blue": (36, 72, 208),
    "purple": (118, 40, 160),
    "pink": (246, 142, 190),
}
_EDGE = 0.012
_PITCH = 0.068
_DOT = 0.017
_PALE = 0.97
_RIM = 0.72
# In units of the radius, as the arms of a small cross must keep a hollow.
_RING = 0.2
# To seven digits, as a square root makes much of a small error.
_SIN36, _COS36 = 0.5877853, 0.8090170
_SIN72, _COS72 = 0.9510565, 0.3090170
_NONE, _HALF, _ALL = np.float32(0), np.float32(0.5), np.float32(1)


def draw(scene: Scene, image_size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Draw a scene as an RGB image of `image_size` pixels on each side."""
    # Colour planes come first while painting: NumPy is slow on an axis of three.
    paint = np.zeros((3, image_size, image_size), np.float32)
    bare = np.ones((image_size, image_size), np.float32)
    if scene.things:
        _paint(paint, bare, scene.things)
    # The half makes the cast to bytes round.
    paint += bare * _ground(scene, image_size) + _HALF
    if bare.min() < 0:
        # Where pixels are coarse, the edges of two things may claim more than one has.
        np.clip(paint, 0, 255, out=paint)
    image = np.empty((image_size, image_size, 3), np.uint8)
    for channel, plane in enumerate(paint.astype(np.uint8)):
        image[..., channel] = plane
    return image


def _ground(scene: Scene, size: int) -> Plane:
    places = _steps(size) / np.float32(size)
    top_left, top_right, bottom_left, bottom_right = (255 * g for g in scene.ground)
    top = top_left + (top_right - top_left) * places
    bottom = bottom_left + (bottom_right - bottom_left) * places
    return top + (bottom - top) * places[:, None]


def _paint(
    paint: Float32[np.ndarray, "3 S S"],
    bare: Float32[np.ndarray, "S S"],
    things: tuple[Thing, ...],
) -> None:
    # All things at once, in windows of one size: with so few pixels, the number of
    # calls to NumPy is what takes the time.
    size = len(bare)
    span = min(size, int(2 * size * max(thing.radius for thing in things)) + 4)
    rows = [_window(thing.y, span, size) for thing in things]
    columns = [_window(thing.x, span, size) for thing in things]
    starts = [
        ([column.start - thing.x * size], [row.start - thing.y * size])
        for thing, row, column in zip(things, rows, columns, strict=True)
    ]
    scale = np.array([[[thing.radius * size]] for thing in things], np.float32)
    places = (np.array(starts, np.float32) + _steps(span)) / scale
    x, y = places[:, :1, :], places[:, 1, :, None]
    cover, tone, pale = _shares(things, x, y, scale, size)
    colours = np.array([_colour(thing) for thing in things], np.float32)
    tints = colours[:, :, None, None] * tone[:, None]
    if pale is not None:
        tints += pale[:, None]
    for row, column, tint, covered in zip(rows, columns, tints, cover, strict=True):
        window, under = paint[:, row, column], bare[row, column]
        window += tint
        under -= covered


def _shares(
    things: tuple[Thing, ...], x: Rows, y: Columns, scale: Scales, size: int
) -> tuple[Planes, Planes, Planes | None]:
    # Of each pixel: what is covered, how much of the colour shows, and the pale grey.
    distance = np.empty((len(things), y.shape[1], x.shape[2]), np.float32)
    for place, thing in enumerate(things):
        signed = _DISTANCE[thing.shape](x[place], y[place])
        if thing.texture == "outlined":
            signed = np.maximum(signed, -_RING - signed)
        distance[place] = signed
    depth = _HALF - distance * scale
    cover, inside = _share(depth), _share(depth - np.float32(_EDGE * size))
    # The rim is a darker tone of the same colour: it sets yellow off from the ground.
    tone = cover * _RIM + inside * (1 - _RIM)
    pale = None
    for place, thing in enumerate(things):
        if thing.texture in _PATTERN:
            pale = np.zeros_like(tone) if pale is None else pale
            pattern = _PATTERN[thing.texture](x[place], y[place], thing.radius)
            share = _share(_HALF - pattern * size) * inside[place]
            tone[place] -= tone[place] * share
            pale[place] = share * cover[place] * (255 * _PALE)
    return cover, tone, pale


def _window(centre: float, span: int, size: int) -> slice:
    start = min(max(0, int(centre * size - span / 2 + 0.5)), size - span)
    return slice(start, start + span)


@cache
def _steps(many: int) -> Float32[np.ndarray, " w"]:
    steps = np.arange(many, dtype=np.float32) + _HALF
    steps.flags.writeable = False
    return steps


def _colour(thing: Thing) -> list[float]:
    return [min(255.0, level * thing.shade) for level in _RGB[thing.colour]]


def _share(pixels: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    return np.minimum(np.maximum(pixels, _NONE), _ALL)


def _circle(x: Row, y: Column) -> Plane:
    return np.sqrt(x * x + y * y) - 0.94


def _square(x: Row, y: Column) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def _diamond(x: Row, y: Column) -> Plane:
    return np.abs(x) * 0.83 + np.abs(y) * 0.56 - 0.56


def _triangle(x: Row, y: Column) -> Plane:
    sides = np.abs(x) * 0.866 - (y + 1) * 0.5
    return np.maximum(sides, y - 0.55)


def _cross(x: Row, y: Column) -> Plane:
    wide, high = np.abs(x), np.abs(y)
    beam = np.maximum(wide - 0.9, high - 0.33)
    post = np.maximum(wide - 0.33, high - 0.9)
    return np.minimum(beam, post)


def _star(x: Row, y: Column) -> Plane:
    # A tip points up and one on each side to 72 and 144 degrees from there. A pixel is
    # measured from the edge of the tip that is the furthest along for it, which goes
    # down to the valley that lies 36 degrees on, at half the radius.
    side = np.abs(x)
    along = np.maximum(_SIN72 * side - _COS72 * y, _SIN36 * side + _COS36 * y)
    along = np.maximum(along, -y)
    across = np.sqrt(np.maximum(x * x + y * y - along * along, _NONE))
    return 0.4426 * along + 0.8968 * across - 0.4426


def _heart(x: Row, y: Column) -> Plane:
    # A square that stands on its corner, and a disc on each of its upper sides.
    side = np.abs(x)
    base = (side + np.abs(y - 0.2)) * 0.7071 - 0.5091
    disc = np.sqrt((side - 0.36) ** 2 + (y + 0.16) ** 2) - 0.5091
    return np.minimum(base, disc)


def _moon(x: Row, y: Column) -> Plane:
    bite = 0.7 - np.sqrt((x - 0.48) ** 2 + (y + 0.12) ** 2)
    return np.maximum(_circle(x, y), bite)


def _stripes(x: Row, y: Column, radius: float) -> Plane:
    across = (x + y) * np.float32(0.7071 * radius / _PITCH)
    return np.float32(_PITCH) * (0.25 - np.abs(across - np.round(across)))


def _dots(x: Row, y: Column, radius: float) -> Plane:
    scale = np.float32(radius / _PITCH)
    right, down = x * scale, y * scale
    square = (right - np.round(right)) ** 2 + (down - np.round(down)) ** 2
    return np.float32(_PITCH) * np.sqrt(square) - np.float32(_DOT)


_DISTANCE: dict[str, Callable[[Row, Column], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
_PATTERN: dict[str, Callable[[Row, Column, float], Plane]] = {
    "striped": _stripes,
    "dotted": _dots,
}

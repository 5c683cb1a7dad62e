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
_DIAGONAL = 0.7071
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
    # Planes come first while painting, as NumPy is slow on an axis of three: red,
    # green and blue of the things, and how much of a pixel they cover.
    planes = np.zeros((4, image_size, image_size), np.float32)
    if scene.things:
        _paint(planes, scene.things)
    colours, covered = planes[:3], planes[3]
    # The half makes the cast to bytes round.
    colours += (1 - covered) * _ground(scene, image_size) + _HALF
    if np.maximum.reduce(covered, axis=None) > 1:
        # Things add up where they meet, which in a sampled scene they hardly do.
        np.clip(colours, 0, 255, out=colours)
    image = np.empty((image_size, image_size, 3), np.uint8)
    for channel, plane in enumerate(colours.astype(np.uint8)):
        image[..., channel] = plane
    return image


def _ground(scene: Scene, size: int) -> Plane:
    top_left, top_right, bottom_left, bottom_right = (255 * g for g in scene.ground)
    right = (top_right - top_left) / size
    down = (bottom_left - top_left) / size
    both = (bottom_right - bottom_left - top_right + top_left) / size**2
    steps = _steps(size)
    return (top_left + right * steps) + (down + both * steps) * steps[:, None]


def _paint(planes: Float32[np.ndarray, "4 S S"], things: tuple[Thing, ...]) -> None:
    # All things at once, in windows of one size: with so few pixels, the number of
    # calls to NumPy is what takes the time.
    many, size = len(things), planes.shape[1]
    span = min(size, int(2 * size * max([thing.radius for thing in things])) + 4)
    windows = [
        (_window(t.y * size, span, size), _window(t.x * size, span, size))
        for t in things
    ]
    starts: list[float] = []
    for thing, (row, column) in zip(things, windows, strict=True):
        starts += column.start - thing.x * size, row.start - thing.y * size
    scale = _column([thing.radius * size for thing in things])
    places = (_column(starts).reshape(many, 2, 1) + _steps(span)) / scale
    cover, tone, pale = _shares(things, places, scale, size)
    tints = np.empty((many, 4, span, span), np.float32)
    colours = _column([level for thing in things for level in _colour(thing)])
    np.multiply(colours.reshape(many, 3, 1, 1), tone[:, None], out=tints[:, :3])
    if pale is not None:
        tints[:, :3] += pale[:, None]
    tints[:, 3] = cover
    for (row, column), tint in zip(windows, tints, strict=True):
        window = planes[:, row, column]
        window += tint


def _shares(
    things: tuple[Thing, ...],
    places: Float32[np.ndarray, "n 2 w"],
    scale: Float32[np.ndarray, "n 1 1"],
    size: int,
) -> tuple[Planes, Planes, Planes | None]:
    # Of each pixel: what is covered, how much of the colour shows, and the pale grey.
    x, y = places[:, :1], places[:, 1, :, None]
    distance = np.empty((len(things), x.shape[2], x.shape[2]), np.float32)
    for place, thing in enumerate(things):
        signed = _DISTANCE[thing.shape](x[place], y[place])
        if thing.texture == "outlined":
            signed = np.maximum(signed, -_RING - signed)
        distance[place] = signed
    depth = _HALF - distance * scale
    cover, inside = _share(depth), _share(depth - np.float32(_EDGE * size))
    # The rim is a darker tone of the same colour: it sets yellow off from the ground.
    tone = cover * _RIM + inside * (1 - _RIM)
    patterned = [i for i, thing in enumerate(things) if thing.texture in _PATTERN]
    if not patterned:
        return cover, tone, None
    pattern = np.zeros_like(tone)
    for place in patterned:
        make = _PATTERN[things[place].texture]
        pattern[place] = make(x[place], y[place], things[place].radius, size)
    share = _share(pattern) * inside
    tone -= tone * share
    return cover, tone, share * cover * (255 * _PALE)


def _column(values: list[float]) -> Float32[np.ndarray, "n 1 1"]:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def _window(centre: float, span: int, size: int) -> slice:
    start = min(max(0, int(centre - span / 2 + 0.5)), size - span)
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


def _stripes(x: Row, y: Column, radius: float, size: int) -> Plane:
    wide = radius * _DIAGONAL / _PITCH
    across = x * wide + y * wide
    off = np.abs(across - np.rint(across))
    return off * (_PITCH * size) + (0.5 - 0.25 * _PITCH * size)


def _dots(x: Row, y: Column, radius: float, size: int) -> Plane:
    right, down = x * (radius / _PITCH), y * (radius / _PITCH)
    right, down = right - np.rint(right), down - np.rint(down)
    off = np.sqrt(right * right + down * down)
    return (0.5 + _DOT * size) - off * (_PITCH * size)


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
_PATTERN: dict[str, Callable[[Row, Column, float, int], Plane]] = {
    "striped": _stripes,
    "dotted": _dots,
}

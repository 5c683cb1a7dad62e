"""How a scene becomes pixels: signed distances, so that edges are smooth at any size.

A signed distance is negative inside a shape and positive outside; the share of a pixel
that the shape covers is 1/2 minus the distance in pixels, held in [0, 1].
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from kdjax.data.scenes.world import Scene, Thing

Plane = Float32[np.ndarray, "h w"]
Row = Float32[np.ndarray, "1 w"]
Column = Float32[np.ndarray, "h 1"]

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
_RING = 0.034
_PITCH = 0.068
_DOT = 0.017
_PALE = 0.97


def draw(scene: Scene, image_size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Draw a scene as an RGB image of `image_size` pixels on each side."""
    image = _ground(scene, image_size)
    for thing in scene.things:
        _paint(image, thing)
    return (image * 255 + 0.5).astype(np.uint8)


def _ground(scene: Scene, size: int) -> Float32[np.ndarray, "S S 3"]:
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size
    top_left, top_right, bottom_left, bottom_right = scene.ground
    top = top_left + (top_right - top_left) * ramp
    bottom = bottom_left + (bottom_right - bottom_left) * ramp
    grey = top + (bottom - top) * ramp[:, None]
    return np.repeat(grey[:, :, None], 3, axis=2)


def _paint(image: Float32[np.ndarray, "S S 3"], thing: Thing) -> None:
    size = len(image)
    rows = _window(thing.y, thing.radius, size)
    columns = _window(thing.x, thing.radius, size)
    y = (_offsets(rows, thing.y, size) / thing.radius)[:, None]
    x = (_offsets(columns, thing.x, size) / thing.radius)[None, :]
    distance = _DISTANCE[thing.shape](x, y) * thing.radius
    if thing.texture == "outlined":
        distance = np.maximum(distance, -_RING - distance)
    colour = np.array(_RGB[thing.colour], np.float32) * (thing.shade / 255)
    colour = np.minimum(colour, 1)
    inside = _coverage(distance + _EDGE, size)
    if thing.texture in _PATTERN:
        pale = _coverage(_PATTERN[thing.texture](x, y, thing.radius), size) * inside
        fill = colour + pale[:, :, None] * (_PALE - colour)
    else:
        fill = colour
    # The rim is a darker tone of the same colour: it sets yellow off from the ground.
    rim = colour * 0.72
    paint = rim + inside[:, :, None] * (fill - rim)
    patch = image[rows, columns]
    patch += _coverage(distance, size)[:, :, None] * (paint - patch)


def _window(centre: float, radius: float, size: int) -> slice:
    low, high = (centre - radius) * size - 1, (centre + radius) * size + 2
    return slice(max(0, int(low)), min(size, int(high)))


def _offsets(window: slice, centre: float, size: int) -> Float32[np.ndarray, " n"]:
    places = np.arange(window.start, window.stop, dtype=np.float32)
    return (places + np.float32(0.5)) / size - np.float32(centre)


def _coverage(distance: Plane, size: int) -> Plane:
    return np.minimum(np.maximum(0.5 - distance * size, 0), 1)


def _circle(x: Row, y: Column) -> Plane:
    return np.sqrt(x * x + y * y) - 0.94


def _square(x: Row, y: Column) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - 0.76


def _diamond(x: Row, y: Column) -> Plane:
    return np.abs(x) * 0.83 + np.abs(y) * 0.56 - 0.56


def _triangle(x: Row, y: Column) -> Plane:
    sides = np.abs(x) * 0.866 - (y + 1) * 0.5
    return np.maximum(sides, y - 0.55)


def _cross(x: Row, y: Column) -> Plane:
    wide, high = np.abs(x), np.abs(y)
    beam = np.maximum(wide - 0.9, high - 0.29)
    post = np.maximum(wide - 0.29, high - 0.9)
    return np.minimum(beam, post)


_POINTS = np.arange(5, dtype=np.float32)[:, None, None] * np.float32(0.4 * np.pi)
_POINT_X, _POINT_Y = np.sin(_POINTS), np.cos(_POINTS)


def _star(x: Row, y: Column) -> Plane:
    # Five half-planes meet in a pentagon, and the pentagram is where a point lies
    # outside one of them at most: the second largest distance decides.
    planes = x * _POINT_X + y * _POINT_Y - np.float32(0.36)
    return np.partition(planes, 3, axis=0)[3]


def _heart(x: Row, y: Column) -> Plane:
    # A square that stands on its corner, and a disc on each of its upper sides.
    side = np.abs(x)
    base = (side + np.abs(y - 0.2)) * 0.7071 - 0.5091
    disc = np.sqrt((side - 0.36) ** 2 + (y + 0.16) ** 2) - 0.5091
    return np.minimum(base, disc)


def _moon(x: Row, y: Column) -> Plane:
    bite = 0.8 - np.sqrt((x - 0.5) ** 2 + (y + 0.12) ** 2)
    return np.maximum(_circle(x, y), bite)


def _stripes(x: Row, y: Column, radius: float) -> Plane:
    across = (x + y) * np.float32(0.7071 * radius / _PITCH)
    return np.float32(_PITCH) * (0.25 - np.abs(across - np.round(across)))


def _dots(x: Row, y: Column, radius: float) -> Plane:
    scale = np.float32(radius / _PITCH)
    u, v = x * scale, y * scale
    u, v = u - np.round(u), v - np.round(v)
    return np.float32(_PITCH) * np.sqrt(u * u + v * v) - np.float32(_DOT)


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

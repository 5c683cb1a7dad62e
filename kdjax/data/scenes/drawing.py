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
_PITCH = 0.068
_DOT = 0.017
_PALE = 0.97
_RIM = 0.72
# In units of the radius, as the arms of a small cross must keep a hollow.
_RING = 0.2


def draw(scene: Scene, image_size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Draw a scene as an RGB image of `image_size` pixels on each side."""
    centres = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) / image_size
    # Colour planes come first while painting: NumPy is slow on an axis of three.
    image = np.empty((3, image_size, image_size), np.float32)
    image[:] = _ground(scene, centres)
    for thing in scene.things:
        _paint(image, thing, centres)
    return np.ascontiguousarray((image * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _ground(scene: Scene, centres: Float32[np.ndarray, " S"]) -> Plane:
    top_left, top_right, bottom_left, bottom_right = scene.ground
    top = top_left + (top_right - top_left) * centres
    bottom = bottom_left + (bottom_right - bottom_left) * centres
    return top + (bottom - top) * centres[:, None]


def _paint(
    image: Float32[np.ndarray, "3 S S"],
    thing: Thing,
    centres: Float32[np.ndarray, " S"],
) -> None:
    size = len(centres)
    rows = _window(thing.y, thing.radius, size)
    columns = _window(thing.x, thing.radius, size)
    y = ((centres[rows] - thing.y) / thing.radius)[:, None]
    x = ((centres[columns] - thing.x) / thing.radius)[None, :]
    distance = _DISTANCE[thing.shape](x, y) * thing.radius
    if thing.texture == "outlined":
        distance = np.maximum(distance, -_RING * thing.radius - distance)
    cover = _coverage(distance, size)
    inside = _coverage(distance + _EDGE, size)
    # The rim is a darker tone of the same colour: it sets yellow off from the ground.
    tone = cover * (_RIM + (1 - _RIM) * inside)
    patch = image[:, rows, columns]
    patch *= 1 - cover
    if thing.texture in _PATTERN:
        pale = _coverage(_PATTERN[thing.texture](x, y, thing.radius), size) * inside
        patch += cover * pale * _PALE
        tone *= 1 - pale
    patch += _colour(thing) * tone


def _colour(thing: Thing) -> Float32[np.ndarray, "3 1 1"]:
    planes = [[[min(1.0, level * thing.shade / 255)]] for level in _RGB[thing.colour]]
    return np.array(planes, np.float32)


def _window(centre: float, radius: float, size: int) -> slice:
    low, high = (centre - radius) * size - 1, (centre + radius) * size + 2
    return slice(max(0, int(low)), min(size, int(high)))


def _coverage(distance: Plane, size: int) -> Plane:
    return np.minimum(np.maximum(0.5 - distance * size, 0), 1)


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
    # All ten edges fold onto the one from the tip (1, 0) to the valley that lies 36
    # degrees on, at half the radius.
    length = np.sqrt(x * x + y * y)
    fifth = np.float32(0.4 * np.pi)
    turn = np.arctan2(x, -y) / fifth
    angle = np.abs(turn - np.round(turn)) * fifth
    along, across = length * np.cos(angle), length * np.sin(angle)
    return 0.4426 * (along - 1) + 0.8968 * across


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

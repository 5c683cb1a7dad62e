"""What a scene is, and how one is sampled."""

from dataclasses import dataclass

from kdjax.data.scenes.chance import Dice

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
TEXTURES = ("solid", "striped", "dotted", "outlined")
PAIRS = tuple((shape, colour) for colour in COLOURS for shape in SHAPES)
# One colour for each shape and one shape for each colour, so that the other splits
# still show every shape in seven colours and every colour on seven shapes.
HELD_OUT = tuple(
    (shape, COLOURS[(3 * place + 1) % len(COLOURS)])
    for place, shape in enumerate(SHAPES)
)
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)

MAX_THINGS = 6
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

_SINGLE = 0.2
_RADIUS = {"small": 0.1, "large": 0.15}
_GAP = 0.02
# A fourth large thing would leave too little room for six.
_MAX_LARGE = 3
_MARGIN = 0.15


@dataclass(frozen=True, slots=True)
class Thing:
    """One object; lengths are in units of the image's side, y points down.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: one of `SIZES`.
        texture: one of `TEXTURES`.
        x: centre, from the left edge.
        y: centre, from the top edge.
        radius: of the circle that holds the whole object.
        shade: factor of brightness around 1.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    shade: float

    @property
    def pair(self) -> tuple[str, str]:
        """(shape, colour)."""
        return self.shape, self.colour


@dataclass(frozen=True, slots=True)
class Scene:
    """One to six things that do not touch, on a light grey ground.

    Attributes:
        things: in no order that means anything.
        ground: grey levels of the ground at the four corners, in [0, 1].
    """

    things: tuple[Thing, ...]
    ground: tuple[float, float, float, float]


def sample_scene(dice: Dice, *, held_out: bool) -> Scene:
    """Sample a scene; with `held_out`, at least one thing has a held-out pair."""
    many = 1 if dice.chance(_SINGLE) else 2 + dice.below(MAX_THINGS - 1)
    pairs = _held_out_pairs(dice, many) if held_out else _seen_pairs(dice, many)
    sizes = _sizes(dice, many)
    textures = [dice.pick(TEXTURES) for _ in pairs]
    radii = [_RADIUS[size] * dice.uniform(0.93, 1.07) for size in sizes]
    centres = _centres(dice, radii)
    shades = [dice.uniform(0.93, 1.07) for _ in pairs]
    grey = dice.uniform(0.84, 0.94)
    corners = [grey + dice.uniform(-0.05, 0.05) for _ in range(4)]
    things = tuple(
        Thing(shape, colour, size, texture, x, y, radius, shade)
        for (shape, colour), size, texture, (x, y), radius, shade in zip(
            pairs, sizes, textures, centres, radii, shades, strict=True
        )
    )
    return Scene(things, (corners[0], corners[1], corners[2], corners[3]))


def relations(thing: Thing, other: Thing) -> list[str]:
    """List how `thing` clearly stands to `other`, as words of `RELATIONS`.

    Clearly means that the centres are at least 0.15 of the image's side apart on that
    axis; a pair may stand so on both axes, on one, or on none.
    """
    found = []
    if abs(thing.x - other.x) >= _MARGIN:
        found.append("left of" if thing.x < other.x else "right of")
    if abs(thing.y - other.y) >= _MARGIN:
        found.append("above" if thing.y < other.y else "below")
    return found


def clearly_not(thing: Thing, relation: str, other: Thing) -> bool:
    """Tell whether nobody would say that `thing` stands in `relation` to `other`."""
    offset = {
        "left of": thing.x - other.x,
        "right of": other.x - thing.x,
        "above": thing.y - other.y,
        "below": other.y - thing.y,
    }[relation]
    return offset >= 0


def _seen_pairs(dice: Dice, many: int) -> list[tuple[str, str]]:
    # Half of the scenes draw from few shapes, half from few colours: without that,
    # hardly anything would repeat and there would be little to count. Any two shapes
    # and two colours hold a seen pair, so the inner draw ends.
    shapes = _palette(dice, SHAPES)
    colours = _palette(dice, COLOURS)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < many:
        pair = dice.pick(shapes), dice.pick(colours)
        if pair not in HELD_OUT:
            pairs.append(pair)
    return pairs


def _held_out_pairs(dice: Dice, many: int) -> list[tuple[str, str]]:
    held = _palette(dice, HELD_OUT)
    first = [dice.pick(held)]
    rest = _seen_pairs(dice, many - 1)
    return first + [dice.pick(held) if dice.chance(0.5) else pair for pair in rest]


def _palette(dice: Dice, values: tuple) -> list:
    return dice.shuffled(values)[: 2 + dice.below(2)] if dice.chance(0.5) else [*values]


def _sizes(dice: Dice, many: int) -> list[str]:
    sizes: list[str] = []
    for _ in range(many):
        full = sizes.count("large") == _MAX_LARGE
        sizes.append("small" if full else dice.pick(SIZES))
    return sizes


def _centres(dice: Dice, radii: list[float]) -> list[tuple[float, float]]:
    # Darts, largest first; a board on which one does not fit is thrown afresh.
    order = sorted(range(len(radii)), key=lambda place: -radii[place])
    while True:
        placed: dict[int, tuple[float, float]] = {}
        for place in order:
            spot = _free_spot(dice, radii, placed, radii[place])
            if spot is None:
                break
            placed[place] = spot
        else:
            return [placed[place] for place in range(len(radii))]


def _free_spot(
    dice: Dice,
    radii: list[float],
    placed: dict[int, tuple[float, float]],
    radius: float,
) -> tuple[float, float] | None:
    border = radius + _GAP
    for _ in range(20):
        x, y = dice.uniform(border, 1 - border), dice.uniform(border, 1 - border)
        for place, (u, v) in placed.items():
            if (x - u) ** 2 + (y - v) ** 2 < (border + radii[place]) ** 2:
                break
        else:
            return x, y
    return None

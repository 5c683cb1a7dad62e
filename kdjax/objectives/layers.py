"""Which layers of a student and of its teacher are compared."""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives.options import Option

PAIR = "-?[1-9][0-9]*:-?[1-9][0-9]*"
# Pairs "student:teacher" of layers counted from 1, or from the last as -1.
LAYERS = Option("-1:-1", choices=("even",), pattern=f"{PAIR}(,{PAIR})*")

Pairs = tuple[tuple[int, int], ...]


def layer_pairs(objective: str, text: str, student: int, teacher: int) -> Pairs:
    """Return the pairs of layers that a text asks for, counted from 0.

    Args:
        objective: whose option the text is.
        text: such as "1:2,-1:-1"; or "even", as many as the shallower has, spread
            evenly over both, the last with the last.
        student: its layers.
        teacher: its layers.

    Raises:
        UserError: one of them has no such layer.
    """
    if text == "even":
        count = min(student, teacher)
        ends = range(1, count + 1)
        return tuple(
            (-(-end * student // count) - 1, -(-end * teacher // count) - 1)
            for end in ends
        )
    what = f"layers of objective {objective} are {text!r}"
    pairs = [tuple(map(int, pair.split(":"))) for pair in text.split(",")]
    return tuple(
        (_place(one, student, what, "student"), _place(other, teacher, what, "teacher"))
        for one, other in pairs
    )


def _place(layer: int, layers: int, what: str, side: str) -> int:
    if abs(layer) > layers:
        raise UserError(
            f"{what} and the {side} has {layers}: give pairs student:teacher of 1 to "
            f"{layers}, or of -1 to -{layers} from the last"
        )
    return layer - 1 if layer > 0 else layers + layer


def asked(layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers without repetition, in their order in a tower."""
    return tuple(sorted(set(layers)))


def of_layers(
    side: Embeddings,
    field: str,
    layers: Sequence[int],
    wanted: Sequence[int],
    depth: int,
) -> Embeddings:
    """Return a side with one field of these layers, in this order.

    Args:
        side: with the field of those `wanted`, or of all of its tower.
        field: image_hidden or image_attention.
        layers: counted from 0.
        wanted: that the objective asks for.
        depth: layers of the tower.

    Raises:
        UserError: the field has other layers.
    """
    stack = getattr(side, field)
    present = range(depth) if len(stack) == depth else wanted
    if len(stack) != len(present):
        raise UserError(
            f"{field} has {len(stack)} layers and the objective compares "
            f"{len(wanted)}: give those, as `CLIP.embed` does, or all {depth}"
        )
    chosen = [stack[present.index(layer)] for layer in layers]
    return replace(side, **{field: jnp.stack(chosen)})

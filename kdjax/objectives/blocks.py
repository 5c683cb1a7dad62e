"""Sums over all pairs of a batch, some rows at a time, on one device or on many.

A block is some rows of the batch with all of its columns, so [b, B] and never [B, B].
On a mesh every device goes through the blocks of its own rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, Int

from kdjax.parallel import BATCH_AXES, row_shares

# Up to so many rows a matrix of all pairs is held: then it costs less than blocks do.
DENSE_ROWS = 2048
# Elements of a block.
BLOCK = 2**22


class Added(NamedTuple):
    """What a block gives, or all of them; trees of arrays.

    Attributes:
        rows: [b, ...], of its rows; stacked over the blocks.
        columns: [B, ...], its share of what is summed over rows.
        total: its share of what is summed over all pairs.
    """

    rows: Any = ()
    columns: Any = ()
    total: Any = ()


# (places of the rows in the batch [b], their arrays [b, ...], all columns' arrays
# [B, ...], scalars) -> Added. It must not close over arrays, which are to be given.
BlockFunction = Callable[[Int[Array, " b"], Any, Any, Any], Added]


@dataclass(frozen=True)
class Layout:
    """How the rows of a batch are gone through.

    Attributes:
        size: rows of a block.
        dense: whether one block is everything, on whatever devices the arrays are.
        mesh: over which the rows are split; None for no mesh, or if they cannot be.
    """

    size: int
    dense: bool
    mesh: AbstractMesh | None = None

    def split(self, local: Callable[..., Any], ins: Any, outs: Any) -> Any:
        """Return a function of global arrays from one of a device's own."""
        if self.mesh is None:
            return local
        return jax.shard_map(
            local, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False
        )

    def first_row(self, count: int) -> Array | int:
        """Return the place of a device's first row, of which it has `count`."""
        return 0 if self.mesh is None else count * jax.lax.axis_index(BATCH_AXES)

    def gather(self, rows: Any) -> Any:
        """Return all rows from a device's own."""
        if self.mesh is None:
            return rows
        return jax.tree.map(
            lambda x: jax.lax.all_gather(x, BATCH_AXES, tiled=True), rows
        )

    def scatter(self, columns: Any) -> Any:
        """Return the sum over devices, of which each keeps its own rows."""
        if self.mesh is None:
            return columns
        return jax.tree.map(
            lambda x: jax.lax.psum_scatter(x, BATCH_AXES, tiled=True), columns
        )

    def total(self, values: Any) -> Any:
        """Return the sum over devices."""
        return values if self.mesh is None else jax.lax.psum(values, BATCH_AXES)

    def largest(self, values: Any) -> Any:
        """Return the maximum over devices."""
        return values if self.mesh is None else jax.lax.pmax(values, BATCH_AXES)


ROWS, WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec()


def layout_of(batch: int, block_rows: int | None = None) -> Layout:
    """Return how to go through a batch on the mesh of JAX's context.

    Args:
        batch: rows in all.
        block_rows: of a block; None for what suits the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shares = row_shares(mesh)
    split = shares > 1 and batch % shares == 0
    among = mesh if split else None
    if block_rows is None and batch <= DENSE_ROWS:
        return Layout(batch, dense=True, mesh=among)
    own = batch // shares if split else batch
    size = block_rows or max(1, BLOCK // batch)
    return Layout(min(size, own), dense=False, mesh=among)


def over_rows(
    function: BlockFunction, rows: Any, columns: Any, scalars: Any, layout: Layout
) -> Added:
    """Return what a function of blocks gives for all rows; it can be differentiated.

    On the way back every block is computed once more, so that none is kept.

    Args:
        function: of a block.
        rows: arrays [B, ...] of which a block gets its rows.
        columns: arrays [B, ...] of which a block gets all.
        scalars: arrays that every block gets.
        layout: how to go through the rows.
    """
    if layout.dense:
        return function(jnp.arange(layout.size), rows, columns, scalars)
    return _over_rows(function, layout, (rows, columns, scalars))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _over_rows(function: BlockFunction, layout: Layout, inputs: Any) -> Added:
    return _forward(function, layout, inputs)[0]


def _forward(function: BlockFunction, layout: Layout, inputs: Any) -> tuple[Added, Any]:
    """Return what the blocks give, and the columns gathered for the way back."""

    def local(rows: Any, columns: Any, scalars: Any) -> tuple[Added, Any]:
        columns = layout.gather(columns)

        def step(index: Array, block: Any) -> tuple[Any, Any]:
            added = function(index, block, columns, scalars)
            return added.rows, (added.columns, added.total)

        own, (shares, total) = _over_blocks(step, rows, layout)
        return Added(own, layout.scatter(shares), layout.total(total)), columns

    ins, outs = (ROWS, ROWS, WHOLE), (Added(ROWS, ROWS, WHOLE), WHOLE)
    return layout.split(local, ins, outs)(*inputs)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Moving:
    """Which of the inputs get a gradient."""

    flags: tuple[bool, ...]


def _keep(function: BlockFunction, layout: Layout, inputs: Any) -> tuple[Added, Any]:
    def primal(x: Any) -> bool:
        return isinstance(x, CustomVJPPrimal)

    primals = jax.tree.leaves(inputs, is_leaf=primal)
    moving = _Moving(tuple(bool(x.perturbed) for x in primals))
    rows, columns, scalars = jax.tree.map(lambda x: x.value, inputs, is_leaf=primal)
    added, gathered = _forward(function, layout, (rows, columns, scalars))
    return added, (rows, gathered, scalars, moving)


def _back(
    function: BlockFunction, layout: Layout, kept: Any, cotangents: Added
) -> tuple[Any]:
    *inputs, moving = kept
    cotangents = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, SymbolicZero) else x,
        cotangents,
        is_leaf=lambda x: isinstance(x, SymbolicZero),
    )
    trees: list[Any] = [jax.tree.structure(part) for part in inputs]
    flags = iter(moving.flags)
    moves = [[next(flags) for _ in range(tree.num_leaves)] for tree in trees]

    def local(rows: Any, columns: Any, scalars: Any, cotangents: Added) -> Any:
        shares = layout.gather(cotangents.columns)

        def step(index: Array, block: Any) -> tuple[Any, Any]:
            rows, own = block
            given = [jax.tree.leaves(part) for part in (rows, columns, scalars)]

            def of_moving(*moved: Any) -> Added:
                parts = map(_merge, given, moves, moved, trees)
                return function(index, *parts)

            _, pull = jax.vjp(of_moving, *map(_moved, given, moves))
            slopes = pull(Added(own, shares, cotangents.total))
            return slopes[0], slopes[1:]

        of_rows, (of_columns, of_scalars) = _over_blocks(
            step, (rows, cotangents.rows), layout
        )
        return of_rows, layout.scatter(of_columns), layout.total(of_scalars)

    ins = (ROWS, WHOLE, WHOLE, Added(ROWS, ROWS, WHOLE))
    found = layout.split(local, ins, (ROWS, ROWS, WHOLE))(*inputs, cotangents)
    nothing = [[None] * tree.num_leaves for tree in trees]
    return (tuple(map(_merge, nothing, moves, found, trees)),)


_over_rows.defvjp(_keep, _back, symbolic_zeros=True)


def _moved(leaves: list[Any], moves: list[bool]) -> list[Any]:
    return [leaf for leaf, moving in zip(leaves, moves, strict=True) if moving]


def _merge(leaves: list[Any], moves: list[bool], moved: Any, tree: Any) -> Any:
    """Return the tree with what moved in its place among the other leaves."""
    rest = iter(moved)
    merged = [
        next(rest) if moving else leaf
        for leaf, moving in zip(leaves, moves, strict=True)
    ]
    return jax.tree.unflatten(tree, merged)


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _over_blocks(
    step: Callable[[Array, Any], tuple[Any, Any]],
    rows: Any,
    layout: Layout,
    join: Callable[[Any, Any], Any] = _add,
    nothing: Callable[[Any], Any] = _zeros,
) -> tuple[Any, Any]:
    """Return what a step says of each of a device's rows, and all that it adds.

    Args:
        step: (places of rows in the batch, their arrays) -> (of these rows, added).
        rows: arrays of the device's own rows.
        layout: how to go through them.
        join: two of what steps add.
        nothing: what joins as nothing, from its shapes.
    """
    count = len(jax.tree.leaves(rows)[0])
    blocks = count // layout.size
    inside = blocks * layout.size
    first, within = layout.first_row(count), jnp.arange(layout.size)

    def body(added: Any, block: Any) -> tuple[Any, Any]:
        start, rows = block
        own, more = step(start + within, rows)
        return join(added, more), own

    cut = jax.tree.map(
        lambda x: x[:inside].reshape(blocks, layout.size, *x.shape[1:]), rows
    )
    shapes = jax.eval_shape(step, within, jax.tree.map(lambda x: x[0], cut))[1]
    starts = first + layout.size * jnp.arange(blocks)
    added, own = jax.lax.scan(body, nothing(shapes), (starts, cut))
    own = jax.tree.map(lambda x: x.reshape(inside, *x.shape[2:]), own)
    if inside == count:
        return own, added
    rest = first + jnp.arange(inside, count)
    last, more = step(rest, jax.tree.map(lambda x: x[inside:], rows))
    own = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), own, last)
    return own, join(added, more)


class Peaks(NamedTuple):
    """The logsumexp of rows or columns in two parts, which cancel less than their sum.

    Attributes:
        largest: logit.
        powers: sum of the exponentials of logits less the largest.
    """

    largest: Float[Array, "..."]
    powers: Float[Array, "..."]

    def log_softmax(self, logits: Float[Array, "b B"]) -> Float[Array, "b B"]:
        """Return the logarithms of probabilities."""
        return (logits - self.largest) - jnp.log(self.powers)


def peaks(logits: Float[Array, "b B"], axis: int) -> Peaks:
    """Return what rows (axis 1) or columns are divided by; that of rows is [b, 1]."""
    rows = axis == 1
    largest = jnp.max(logits, axis, keepdims=rows)
    return Peaks(largest, jnp.sum(jnp.exp(logits - largest), axis, keepdims=rows))


def _lowest(shapes: list[Peaks]) -> list[Peaks]:
    return [
        Peaks(jnp.full(x.largest.shape, -jnp.inf), jnp.zeros(x.powers.shape))
        for x in shapes
    ]


def _higher(one: list[Peaks], other: list[Peaks]) -> list[Peaks]:
    def join(a: Peaks, b: Peaks) -> Peaks:
        largest = jnp.maximum(a.largest, b.largest)
        powers = [x.powers * jnp.exp(x.largest - largest) for x in (a, b)]
        return Peaks(largest, powers[0] + powers[1])

    return [join(*pair) for pair in zip(one, other, strict=True)]


def column_peaks(
    function: Callable[[Array, Any, Any, Any], list[Float[Array, "b B"]]],
    rows: Any,
    columns: Any,
    scalars: Any,
    layout: Layout,
) -> list[Peaks]:
    """Return the logsumexp over all rows of some matrices; it gives no gradient.

    Args:
        function: of a block as of `over_rows`, to the matrices' blocks.
        rows: as of `over_rows`.
        columns: as of `over_rows`.
        scalars: as of `over_rows`.
        layout: how to go through the rows.

    Returns:
        Of every matrix, with arrays [B].
    """

    def of_block(*block: Any) -> list[Peaks]:
        return [peaks(logits, axis=0) for logits in function(*block)]

    def local(rows: Any, columns: Any, scalars: Any) -> list[Peaks]:
        columns = layout.gather(columns)

        def step(index: Array, block: Any) -> tuple[tuple[()], list[Peaks]]:
            return (), of_block(index, block, columns, scalars)

        _, own = _over_blocks(step, rows, layout, _higher, _lowest)
        largest = layout.largest([x.largest for x in own])
        return [
            Peaks(top, layout.total(x.powers * jnp.exp(x.largest - top)))
            for x, top in zip(own, largest, strict=True)
        ]

    inputs = jax.lax.stop_gradient((rows, columns, scalars))
    if layout.dense:
        return of_block(jnp.arange(layout.size), *inputs)
    return layout.split(local, (ROWS, ROWS, WHOLE), WHOLE)(*inputs)

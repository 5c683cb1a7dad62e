"""The table that says where each dimension of a parameter lives."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

# The batch dimension is split over both of these.
BATCH_AXES = ("data", "fsdp")

# Logical axis of a parameter -> axis of the mesh that it is split over, or None.
RULES: dict[str, str | None] = {
    "embed": "fsdp",  # width of a residual stream, and what a head reads
    "heads": "tensor",  # of attention, each of them whole
    "mlp": "tensor",  # hidden width of an MLP
    "vocab": "tensor",  # rows of a token embedding
    "layers": None,  # of a stack, which is scanned
    "patch": None,  # what an embedding of patches or of a tower's tokens reads
    "position": None,  # rows of a position embedding
    "joint": None,  # width of embeddings, which a loss reads whole
    "answers": None,  # classes
}
# A parameter without names is whole: norms, single tokens and scales, which are small.

# Axes of the mesh over which parameters that are trained are split.
SPLIT = ("fsdp", "tensor")
# Those of a frozen teacher, by `teacher_sharding`; what they do not split is whole.
FROZEN: dict[str, tuple[str, ...]] = {
    "replicated": (),
    "fsdp": ("fsdp",),
    "tensor": ("tensor",),
}


class Dimension(NamedTuple):
    """One dimension of a parameter.

    Attributes:
        axis: its logical name, or None.
        size: of the array.
        units: that are never cut: its heads, or else its rows.
    """

    axis: str | None
    size: int
    units: int


def dimensions(variable: nnx.Variable) -> tuple[Dimension, ...]:
    """Return the dimensions of a parameter, or of its shape, by its metadata."""
    metadata = variable.get_metadata()
    names = metadata.get("out_sharding") or (None,) * variable.ndim
    return tuple(
        Dimension(name, size, metadata["heads"] if name == "heads" else size)
        for name, size in zip(names, variable.shape, strict=True)
    )


def partition_spec(
    dims: Sequence[Dimension], mesh: Mesh | AbstractMesh, over: Sequence[str] = SPLIT
) -> PartitionSpec:
    """Return where each dimension goes; one that does not divide is whole."""

    def place(dim: Dimension) -> str | None:
        target = _target(dim, over)
        return target if target and dim.units % mesh.shape[target] == 0 else None

    return PartitionSpec(*map(place, dims))


def _target(dim: Dimension, over: Sequence[str]) -> str | None:
    target = RULES.get(dim.axis or "")
    return target if target in over else None


def row_shares(mesh: AbstractMesh) -> int:
    """Return over how many devices rows are split; one on a mesh of another kind."""
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(types.get(axis) is not AxisType.Auto for axis in BATCH_AXES):
        return 1
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def by_rows(x: Array) -> Array:
    """Return an array whose rows lie on the mesh of JAX's context as a batch's do.

    Parameters that are split pull activations their way: the compiler would sooner
    split those by their width, and gather all rows of a batch, than gather a layer's
    weights. Where rows are not split, or not evenly, nothing is asked.
    """
    shares = row_shares(jax.sharding.get_abstract_mesh())
    if shares == 1 or x.shape[0] % shares:
        return x
    return _placed(x, BATCH_AXES, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1))


def whole_rows(table: Array) -> Array:
    """Return a table no row of which is split over the mesh of JAX's context.

    Of a split row every device would look up its part for all rows of a batch.
    """
    if row_shares(jax.sharding.get_abstract_mesh()) == 1:
        return table
    return _placed(table, PartitionSpec.UNCONSTRAINED, None)


def _placed(x: Array, *places: Any) -> Array:
    """Return a traced array where it is wanted, and any other where it is."""
    if not isinstance(x, jax.core.Tracer):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*places))


def parameter_shardings(
    params: nnx.State, mesh: Mesh | AbstractMesh, over: Sequence[str] = SPLIT
) -> Any:
    """Return the sharding of every parameter, as nested dicts like the parameters'.

    Args:
        params: parameters, or their shapes, with logical axes as NNX metadata.
        mesh: with the axes data, fsdp and tensor.
        over: axes of the mesh that may split them.
    """
    placed = jax.tree.map(
        lambda x: NamedSharding(mesh, partition_spec(dimensions(x), mesh, over)),
        params,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )
    return nnx.to_pure_dict(placed)


def state_shardings(state: Any, params: nnx.State, mesh: Mesh | AbstractMesh) -> Any:
    """Return the sharding of every array of a state that is made from parameters.

    An array whose path ends in a parameter's is of that one: it lies as that does, as
    moments and averages, or by the axes that it keeps, as factored moments. Arrays of
    no parameter are whole.

    Args:
        state: any tree with shapes, such as that of an optimiser.
        params: parameters, or their shapes, with logical axes as NNX metadata.
        mesh: with the axes data, fsdp and tensor.
    """
    known = {path: dimensions(x) for path, x in nnx.to_flat_state(params)}

    def sharding(path: Any, x: Any) -> NamedSharding:
        kept = _kept(_of(path, known), x.shape)
        return NamedSharding(mesh, partition_spec(kept, mesh))

    return jax.tree_util.tree_map_with_path(sharding, state)


def _of(
    path: Any, known: dict[tuple[Any, ...], tuple[Dimension, ...]]
) -> tuple[Dimension, ...]:
    """Return the dimensions of the parameter that a path ends in, or none."""
    keys = tuple(getattr(part, "key", None) for part in path)
    ends = (keys[first:] for first in range(len(keys)))
    return next((known[end] for end in ends if end in known), ())


def _kept(dims: Sequence[Dimension], shape: Sequence[int]) -> Sequence[Dimension]:
    """Return the dimensions that an array of a parameter still has, in their order."""
    kept: list[Dimension] = []
    for dim in dims:
        if len(kept) < len(shape) and dim.size == shape[len(kept)]:
            kept.append(dim)
    return kept if len(kept) == len(shape) else ()


def unsplit(
    params: nnx.State, mesh: Mesh | AbstractMesh, over: Sequence[str] = SPLIT
) -> tuple[str, ...]:
    """Return what the table splits and the mesh cannot, such as "3 heads by tensor 2".

    Args:
        params: parameters, or their shapes, with logical axes as NNX metadata.
        mesh: with the axes data, fsdp and tensor.
        over: axes of the mesh that may split them.
    """
    found = set()
    for _, variable in nnx.to_flat_state(params):
        for dim in dimensions(variable):
            target = _target(dim, over)
            if target and dim.units % mesh.shape[target]:
                found.add((dim.axis, dim.units, target))
    return tuple(
        f"{axis} {units} by mesh.{target} {mesh.shape[target]}"
        for axis, units, target in sorted(found)
    )


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding that puts a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def placed(tree: Any, mesh: Mesh) -> Any:
    """Return arrays with those that are nowhere on a mesh on all of it."""

    def place(x: Any) -> jax.Array:
        there = isinstance(x, jax.Array) and getattr(x.sharding, "mesh", None) == mesh
        return x if there else jax.device_put(x, replicated(mesh))

    return jax.tree.map(place, tree)

"""The table that says where each dimension of a parameter lives."""

from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

# The batch dimension is split over both of these.
BATCH_AXES = ("data", "fsdp")

# Logical axis of a parameter -> mesh axis; an axis that is not here is replicated.
RULES: dict[str, str] = {
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "vocab": "tensor",
}


def partition_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Return where each dimension goes; one that does not divide is replicated."""

    def place(axis: str | None, size: int) -> str | None:
        target = RULES.get(axis or "")
        return target if target and size % mesh.shape[target] == 0 else None

    return PartitionSpec(*map(place, axes, shape))


def parameter_shardings(state: nnx.State, mesh: Mesh) -> Any:
    """Return the sharding of every parameter, as nested dicts like the parameters'.

    Args:
        state: parameters, or their shapes, with logical axes as NNX metadata.
        mesh: with the axes data, fsdp and tensor.
    """

    def sharding(variable: nnx.Variable) -> NamedSharding:
        axes = variable.get_metadata().get("out_sharding") or (None,) * variable.ndim
        return NamedSharding(mesh, partition_spec(axes, variable.shape, mesh))

    placed = jax.tree.map(
        sharding, state, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
    return nnx.to_pure_dict(placed)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())

"""The device mesh, and a host's batch as its share of a global array."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import (
    create_device_mesh,
    create_hybrid_device_mesh,
)
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64

from kdjax.errors import UserError
from kdjax.parallel.sharding import BATCH_AXES

AXES = ("data", "fsdp", "tensor")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh from the sizes of its axes, one of which may be -1.

    Of several TPU slices each has its part of `data`, the axis that says least to
    others, and whole copies of the axes that say more.

    Args:
        sizes: of data, fsdp and tensor.
        devices: to take, those of a topology that is not there too; None for all.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or data cannot
            be split over the slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(sizes, len(devices))
    slices = len({_slice(device) for device in devices})
    if slices > 1:
        inside, across = over_slices(shape, slices)
        grid = create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    else:
        grid = create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(sizes: Mapping[str, int], count: int) -> tuple[int, ...]:
    """Return the sizes of the axes of a mesh of so many devices.

    Raises:
        UserError: those given do not multiply to it.
    """
    shape = [sizes[axis] for axis in AXES]
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0 and count % known == 0:
        shape[shape.index(-1)] = count // known
    if min(shape) < 1 or math.prod(shape) != count:
        named = ", ".join(f"mesh.{axis}={sizes[axis]}" for axis in AXES)
        raise UserError(
            f"{named} does not fit {count} devices: sizes must multiply to {count}, "
            "and one of them may be -1"
        )
    return tuple(shape)


def _slice(device: Any) -> int:
    # Those of GPUs are their hosts, in whose order they come anyway.
    return getattr(device, "slice_index", 0) if device.platform == "tpu" else 0


def over_slices(
    shape: tuple[int, ...], slices: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the mesh inside a slice and the mesh of slices, whose product is `shape`.

    Raises:
        UserError: data, the first axis, cannot be split over the slices.
    """
    data, *rest = shape
    if data % slices:
        raise UserError(
            f"mesh.data {data} cannot be split over {slices} slices: choose a multiple "
            f"of {slices}, and smaller mesh.fsdp or mesh.tensor"
        )
    return (data // slices, *rest), (slices, *(1,) * len(rest))


def check_rows(key: str, rows: int, mesh: Mesh) -> None:
    """Check that so many rows can be split over a mesh; `key` is what they are.

    Raises:
        UserError: it cannot.
    """
    shares = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % shares:
        named = " x ".join(f"mesh.{axis} {mesh.shape[axis]}" for axis in BATCH_AXES)
        raise UserError(
            f"{key} {rows} cannot be split over {named}: choose a multiple of {shares}"
        )


def host_rows(count: int, mesh: Mesh) -> Int64[np.ndarray, " b"]:
    """Return which of a batch's so many rows the devices of this host have.

    They are not always next to each other, and hosts may have the same ones.
    """
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    places = rows.addressable_devices_indices_map((count,)).values()
    return np.unique(np.concatenate([np.arange(count)[place] for place in places]))


def to_global(batch: Mapping[str, Any], mesh: Mesh) -> Any:
    """Return global arrays, rows over data and fsdp, from `host_rows`."""
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def put(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(rows, x)

    return jax.tree.map(put, dict(batch))

"""The device mesh, and a host's batch as its share of a global array."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int64

from kdjax.errors import UserError
from kdjax.parallel.sharding import BATCH_AXES

AXES = ("data", "fsdp", "tensor")


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """Return a mesh over all devices from the sizes of its axes; one may be -1.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    count = jax.device_count()
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
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


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

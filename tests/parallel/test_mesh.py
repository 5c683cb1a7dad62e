"""Meshes from their sizes, and where parameters go."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from kdjax.errors import UserError
from kdjax.parallel import host_rows, make_mesh, to_global
from kdjax.parallel.sharding import partition_spec

MESH = AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)


def test_one_size_may_be_left_to_the_number_of_devices():
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    assert dict(mesh.shape) == {
        "data": jax.device_count(),
        "fsdp": 1,
        "tensor": 1,
    }


@pytest.mark.parametrize(
    "sizes", [(-1, -1, 1), (0, 1, 1), (3, 1, 1), (-1, 7, 1), (-2, 1, 1)]
)
def test_sizes_that_do_not_fit_are_refused(sizes):
    named = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    with pytest.raises(UserError, match=r"does not fit \d+ devices"):
        make_mesh(named)


def test_a_dimension_goes_where_the_table_says_if_it_divides():
    axes = ("layers", "embed", "mlp")
    assert partition_spec(axes, (3, 8, 32), MESH) == PartitionSpec(
        None, "fsdp", "tensor"
    )
    assert partition_spec(axes, (3, 6, 32), MESH) == PartitionSpec(None, None, "tensor")
    assert partition_spec((None,), (8,), MESH) == PartitionSpec(None)


def test_one_host_has_all_rows_of_a_batch_and_they_stay():
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    np.testing.assert_array_equal(host_rows(4, mesh), np.arange(4))
    batch = {"x": np.arange(8).reshape(4, 2), "text": {"student": np.ones((4, 3))}}
    put = to_global(batch, mesh)
    np.testing.assert_array_equal(put["x"], batch["x"])
    assert put["text"]["student"].shape == (4, 3)

"""Meshes from their sizes, of one slice and of several."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from kdjax.errors import UserError
from kdjax.parallel import host_rows, make_mesh, to_global


def named(sizes):
    return dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))


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
    with pytest.raises(UserError, match=r"does not fit \d+ devices"):
        make_mesh(named(sizes))


@dataclass(frozen=True)
class Chip:
    """What `jax.experimental.mesh_utils` asks of a TPU's device."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v4"
    core_on_chip: int = 0
    process_index: int = 0


def chips(slices, side=2):
    places = [(x, y, 0) for y in range(side) for x in range(side)]
    return [
        Chip(slice * len(places) + place, slice, at)
        for slice in range(slices)
        for place, at in enumerate(places)
    ]


@pytest.mark.parametrize("sizes", [(-1, 2, 1), (4, 2, 1), (2, 1, 4), (8, 1, 1)])
def test_data_goes_over_the_slices_and_the_other_axes_stay_inside(sizes):
    mesh = make_mesh(named(sizes), chips(slices=2))
    assert mesh.devices.shape == tuple(8 // 2 if s == -1 else s for s in sizes)
    half = mesh.devices.shape[0] // 2
    for slice, part in enumerate((mesh.devices[:half], mesh.devices[half:])):
        assert {chip.slice_index for chip in part.flat} == {slice}


def test_a_mesh_that_does_not_divide_over_the_slices_is_refused():
    with pytest.raises(UserError, match=r"mesh.data 1 cannot be split over 2 slices"):
        make_mesh(named((1, 8, 1)), chips(slices=2))
    assert make_mesh(named((1, 4, 1)), chips(slices=1)).shape["fsdp"] == 4


def test_one_host_has_all_rows_of_a_batch_and_they_stay():
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    np.testing.assert_array_equal(host_rows(4, mesh), np.arange(4))
    batch = {"x": np.arange(8).reshape(4, 2), "text": {"student": np.ones((4, 3))}}
    put = to_global(batch, mesh)
    np.testing.assert_array_equal(put["x"], batch["x"])
    assert put["text"]["student"].shape == (4, 3)

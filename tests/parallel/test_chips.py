"""JAX's names of devices, and what those can do."""

import jax
import pytest

from kdjax.parallel.chips import CHIPS, GIB, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_a_device_is_known_by_its_kind(kind, name):
    assert chip_of(kind) == CHIPS[name]


@pytest.mark.parametrize(
    "kind", ["TPU v3", "TPU v4 lite", "TPU7x", "NVIDIA H100 NVL", "NVIDIA L4"]
)
def test_of_what_is_not_in_the_table_nothing_is_said(kind):
    assert chip_of(kind) is None


def test_a_cpu_has_no_peak():
    assert chip_of(jax.devices("cpu")[0].device_kind) is None


def test_units_are_operations_and_bytes():
    for chip in CHIPS.values():
        assert 1e14 < chip.peak < 1e15
        assert 16 * GIB <= chip.memory < 142e9
        assert 1e11 < chip.interconnect < chip.bandwidth < chip.peak

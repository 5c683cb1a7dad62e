"""Machines that are not here: TPU slices to compile for, and GPUs to count for."""

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from kdjax.errors import UserError
from kdjax.parallel.chips import CHIPS, Chip

FORM = re.compile(r"([\w-]+):([1-9]\d{0,6}(?:x[1-9]\d{0,6}){0,2})")
FORMS = "such as v5e:16x16, v5p:4x4x4 or h100:8"
# GPUs of one machine, which reach each other by their links, and the most that a plan
# counts for, each of which is a device of this machine's CPU.
MACHINE, MOST_GPUS = 8, 1024
# Slices that can be rented, from small to large, as Google Cloud's pages of the chips
# and of TPUs in Kubernetes list them.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
SHAPES = {
    **dict.fromkeys(("v5e", "v6e"), FLAT),
    **dict.fromkeys(("v4", "v5p"), SOLID),
}
# Chips of the largest slice of those that are also put together of cubes of 4x4x4.
LARGEST = {"v4": 4096, "v5p": 6144}
CUBE = 4
GPUS = ("1", "2", "4", "8", "16", "32", "64", "128", "256")
# What to ask libtpu for where both cores of a chip are one device only then; on the
# machine itself JAX has them so.
AS_ONE = {"v4": {"chip_config_name": "megacore"}}


@dataclass(frozen=True)
class Topology:
    """Devices that a program is planned for.

    Attributes:
        name: such as v5e:16x16.
        chip: what each of them can do.
        platform: tpu or gpu.
        devices: to compile for; for GPUs as many of this machine's CPU.
    """

    name: str
    chip: Chip
    platform: str
    devices: Sequence[Any]

    @property
    def compiled(self) -> bool:
        """Whether what is compiled is what would run there."""
        return self.platform == "tpu"

    def slices(self, mesh: Mesh) -> tuple[int, ...]:
        """Return the slice, or the machine of GPUs, of each device of a mesh."""
        return tuple(
            getattr(x, "slice_index", 0) if self.compiled else x.id // MACHINE
            for x in mesh.devices.flat
        )


def parse(name: str) -> tuple[str, str]:
    """Return the chip and the shape of a topology's name.

    Raises:
        UserError: it is no such name, there is no such chip, or none in that shape.
    """
    found = FORM.fullmatch(name)
    if found is None or found[1] not in CHIPS:
        raise UserError(
            f"the topology is {name!r}; give a chip ({', '.join(CHIPS)}) and a shape, "
            f"{FORMS}"
        )
    chip, shape = found[1], found[2]
    if not _there_is(chip, tuple(map(int, shape.split("x")))):
        raise UserError(f"there is no topology {name!r}: {_those_of(chip)}")
    return chip, shape


def _there_is(chip: str, sizes: tuple[int, ...]) -> bool:
    """Return whether a chip can be rented in a shape of these sizes."""
    number = math.prod(sizes)
    if chip not in SHAPES:
        machines = number <= MACHINE or number % MACHINE == 0
        return len(sizes) == 1 and machines and number <= MOST_GPUS
    cubes = len(sizes) == 3 and all(size % CUBE == 0 for size in sizes)
    larger = cubes and sizes == tuple(sorted(sizes)) and number <= LARGEST.get(chip, 0)
    return larger or "x".join(map(str, sizes)) in SHAPES[chip]


def _those_of(chip: str) -> str:
    """Return what to say of the shapes of a chip."""
    if chip not in SHAPES:
        return (
            f"give a number of {chip}, up to {MACHINE} or a multiple of {MACHINE} up "
            f"to {MOST_GPUS}"
        )
    told = f"shapes of {chip} are {', '.join(SHAPES[chip])}"
    if chip in LARGEST:
        told += (
            f" and other multiples of {CUBE}, the smallest first, of up to "
            f"{LARGEST[chip]} chips"
        )
    return told


def count(name: str) -> int:
    """Return the number of devices of a topology."""
    return math.prod(map(int, parse(name)[1].split("x")))


def names_of(chip: str) -> list[str]:
    """Return the topologies of a chip, from small to large.

    Raises:
        UserError: there is no such chip.
    """
    if chip not in CHIPS:
        raise UserError(f"there is no chip {chip!r}; give one of {', '.join(CHIPS)}")
    return [f"{chip}:{shape}" for shape in SHAPES.get(chip, GPUS)]


def simulated(name: str) -> int:
    """Return how many devices of a CPU a plan for a topology, or a chip, is made with.

    Raises:
        UserError: it is no such name.
    """
    largest = name if ":" in name else names_of(name)[-1]
    return 1 if parse(largest)[0] in SHAPES else count(largest)


def topology(name: str, slices: int = 1) -> Topology:
    """Return a topology by its name; nothing of it need be here.

    Args:
        name: a chip and a shape, such as v5e:16x16.
        slices: of that shape; of GPUs machines are.

    Raises:
        UserError: there is none of that name, libtpu is missing, or there are too few
            CPU devices to stand for GPUs.
    """
    chip, _ = parse(name)
    if slices < 1:
        raise UserError(f"slices is {slices}; give how many of {name} there are")
    if chip not in SHAPES and slices > 1:
        raise UserError(f"slices is {slices} and {name} has none: they are of TPUs")
    if chip not in SHAPES:
        devices = jax.devices("cpu")[: count(name)]
        if len(devices) < count(name):
            raise UserError(
                f"{name} needs {count(name)} CPU devices in place of its GPUs and this "
                f"process has {len(devices)}: set XLA_FLAGS to "
                f"--xla_force_host_platform_device_count={count(name)} before it starts"
            )
        return Topology(name, CHIPS[chip], "gpu", devices)
    return Topology(name, CHIPS[chip], "tpu", _tpus(name, chip, slices))


def _tpus(name: str, chip: str, slices: int) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "to plan for TPUs needs their compiler, which is no TPU: pip install "
            "'kdjax[plan]'"
        )
    from jax.experimental import topologies

    more: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    more |= AS_ONE.get(chip, {})
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **more)
    except Exception as error:  # of many kinds, by the version of the library
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"libtpu knows no topology {name!r} of {slices} slices ({said}): "
            f"{_those_of(chip)}"
        ) from error
    return found.devices

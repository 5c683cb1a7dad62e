"""How long an optimised step would take on chips that are not here: a roofline.

Four things take time and may all overlap, so the step takes as long as the longest of
them: its matrix products at the chip's peak, its traffic with the chip's memory, what
it sends over the links inside a slice, and what it sends to other slices, each at its
full rate. No step is faster; a real one is slower by what does not overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from kdjax.parallel import hlo
from kdjax.parallel.chips import Chip
from kdjax.parallel.costs import (
    Collective,
    collectives,
    memory_traffic,
    product_flops,
)


@dataclass(frozen=True)
class Roofline:
    """What one device does in a step, and how long each part takes at least.

    Attributes:
        chip: that does it.
        flops: of matrix products, with what is computed again.
        traffic: bytes read from memory and written to it.
        collectives: what devices say to each other.
        unknown_loops: of which the program does not say how often they run, so that
            they count once.
    """

    chip: Chip
    flops: float
    traffic: int
    collectives: tuple[Collective, ...]
    unknown_loops: int = 0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each part, by its name."""
        return {
            "compute": self.flops / self.chip.peak,
            "memory": self.traffic / self.chip.bandwidth,
            "links": sum(x.near for x in self.collectives) / self.chip.interconnect,
            "network": sum(x.far for x in self.collectives) / self.chip.network,
        }

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return max(self.seconds.values())

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(self.seconds, key=lambda part: self.seconds[part])


def roofline(
    text: str, jaxpr: Any, mesh: Mesh, slices: Sequence[int], chip: Chip
) -> Roofline:
    """Return the roofline of a step.

    Args:
        text: of the optimised program.
        jaxpr: of the traced one, whose products are those of all devices together.
        mesh: that it is for.
        slices: in which slice each device of the mesh is, by its place there.
        chip: that the devices are.
    """
    flops = product_flops(jaxpr) / mesh.devices.size
    module = hlo.read(text)
    return Roofline(
        chip,
        flops,
        memory_traffic(module),
        tuple(collectives(module, dict(mesh.shape), slices)),
        module.unknown_loops,
    )

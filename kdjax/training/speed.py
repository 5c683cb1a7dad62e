"""How fast a run is, and how much of its devices it uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from kdjax.parallel.chips import GIB, chip_of
from kdjax.training.flops import step_flops
from kdjax.training.steps import Program


@dataclass(frozen=True)
class Speed:
    """Turns seconds into what people compare.

    Attributes:
        rows: samples of a step, over all hosts.
        flops: model FLOPs of a step, or None where they are not known.
        peak: FLOP/s of all devices together, or None where they are not known.
    """

    rows: int
    flops: int | None
    peak: float | None

    @classmethod
    def of(cls, program: Program, batch: Mapping[str, Any]) -> "Speed":
        """Return that of a program whose global batches are like this one."""
        devices = program.mesh.devices.flat
        chips = [chip_of(device.device_kind) for device in devices]
        return cls(
            rows=len(jax.tree.leaves(batch)[0]),
            flops=step_flops(program.task, program.optimizer, batch),
            peak=None if None in chips else sum(chip.peak for chip in chips if chip),
        )

    def metrics(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Return the numbers of a line of metrics.

        Args:
            seconds: of a step, by phase. Samples and FLOPs are those of the time that
                goes into training: waiting for data, and the step.
        """
        found = {f"time/{phase}": value for phase, value in seconds.items()}
        training = seconds["data"] + seconds["step"]
        found["speed/samples_per_second"] = self.rows / training
        if self.flops is not None:
            found["speed/flops_per_second"] = self.flops / training
            if self.peak is not None:
                found["speed/utilisation"] = self.flops / training / self.peak
        return found


def device_memory() -> dict[str, float]:
    """Return the memory of this host's fullest device in GiB; nothing on a CPU."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    names = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use"}
    return {
        f"memory/{name}_gib": max(found[key] for found in stats) / GIB
        for name, key in names.items()
        if all(key in found for found in stats)
    }

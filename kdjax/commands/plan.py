"""`kdjax plan`: what a run takes of a machine, before there is one."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jax.errors import JaxRuntimeError
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdjax.commands.planned import Planned, planned
from kdjax.commands.reporter import Reporter
from kdjax.commands.schema import check_split, check_words, command_of
from kdjax.parallel import make_mesh
from kdjax.parallel.aot import optimised
from kdjax.parallel.chips import GIB
from kdjax.parallel.roofline import Roofline, roofline
from kdjax.parallel.topology import Topology, topology
from kdjax.training.flops import step_flops
from kdjax.training.memory import EXHAUSTED, Memory, memory_written, state_memory

# What the compiler of TPUs says where a program does not fit.
NUMBER = r"([\d.]+)([KMGT]?)"
USED = re.compile(
    rf"Used {NUMBER} of {NUMBER} hbm"
    rf"|\({NUMBER}\) exceeds available HBM \({NUMBER}\)"
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclass(frozen=True)
class Plan:
    """What a run takes of a machine.

    Attributes:
        topology: name of the machine.
        compiled_for_it: whether what was compiled is what would run there.
        mesh: sizes of the axes in which its devices are laid out.
        config: of the run.
        models: parameters of each, by its name.
        model_flops: of a step, over all devices: what its models need; None where that
            is not known.
        state: bytes that each device holds between steps.
        needed: bytes of a device in a step; more than `limit` where it does not fit.
        limit: bytes that a device has.
        memory: of what `needed` is made, or None where it does not fit.
        roofline: how long a step takes, or None where it does not fit.
        seconds: that planning took.
    """

    topology: str
    compiled_for_it: bool
    mesh: Mapping[str, int]
    config: ConfigDict
    models: Mapping[str, int]
    model_flops: int | None
    state: int
    needed: float
    limit: float
    memory: Memory | None
    roofline: Roofline | None
    seconds: float

    @property
    def devices(self) -> int:
        """Their number."""
        return math.prod(self.mesh.values())

    @property
    def fits(self) -> bool:
        """Whether a step fits into the memory of a device."""
        return self.roofline is not None and self.needed <= self.limit

    @property
    def step(self) -> float | None:
        """Seconds of a step: what no step beats where another machine's is compiled.

        That has the products of what would run, but traffic and collectives of its own.
        """
        if self.roofline is None:
            return None
        if self.compiled_for_it:
            return self.roofline.step
        return self.roofline.seconds["compute"]


def plan(config: ConfigDict, name: str, slices: int, reporter: Reporter) -> Plan:
    """Return what a run takes of a machine that need not be here.

    Args:
        config: of a run of pretrain, distill or vqa.
        name: of the machine's topology, such as v5e:16x16.
        slices: of that topology.
        reporter: is told how far it is.

    Raises:
        UserError: the config, the topology or both do not work.
    """
    began = time.monotonic()
    command = command_of(config)
    check_words(command, config)
    machine = topology(name, slices)
    mesh = make_mesh(dict(config.mesh), machine.devices)
    check_split(config, mesh)
    step = planned(command, config, mesh, machine.platform, reporter)
    held = step.held(mesh)
    if held > machine.chip.memory:  # whatever else there is
        memory = found = None
        needed, limit = float(held), float(machine.chip.memory)
    else:
        reporter.say(f"plan: compiling the step for {name}")
        memory, found, needed, limit = _compiled(step, machine, mesh)
    return Plan(
        topology=name,
        compiled_for_it=machine.compiled,
        mesh=dict(mesh.shape),
        config=config,
        models=step.parameters,
        model_flops=step_flops(step.program.task, step.program.optimizer, step.batch),
        state=state_memory(step.program),
        needed=needed,
        limit=limit,
        memory=memory,
        roofline=found,
        seconds=time.monotonic() - began,
    )


def _compiled(
    step: Planned, machine: Topology, mesh: Mesh
) -> tuple[Memory | None, Roofline | None, float, float]:
    """Return a step's memory and roofline, and bytes that it needs and that there are.

    Raises:
        UserError: the compiler does not write down what it makes of it.
    """
    jitted: Any = step.program.step
    traced = jitted.trace(*step.inputs)
    limit = float(machine.chip.memory)
    try:
        made = optimised(traced.lower())
    except JaxRuntimeError as error:
        used = USED.search(str(error))
        if EXHAUSTED not in str(error) or used is None:
            raise
        said = [x for x in used.groups() if x is not None]
        needed, limit = (float(said[i]) * UNITS[said[i + 1]] for i in (0, 2))
        return None, None, needed, limit
    memory, slices = memory_written(made.buffers), machine.slices(mesh)
    found = roofline(made.program, traced.jaxpr, mesh, slices, machine.chip)
    return memory, found, memory.total, limit

"""What a step holds on a device, and what to do when that is too much."""

import math
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
from etils import epath
from jax.errors import JaxRuntimeError

from kdjax.errors import UserError
from kdjax.parallel import BATCH_AXES
from kdjax.parallel.aot import TRIED
from kdjax.parallel.chips import GIB, chip_of
from kdjax.training.steps import Program, build_program

EXHAUSTED = "RESOURCE_EXHAUSTED"
# An allocation of the device's memory, of which colours stand for other memories.
ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (?!color)(.*)", re.MULTILINE)
# An output in the place of an argument is the argument's.
WORDS = (
    ("arguments", "parameter "),
    ("outputs", "live-out"),
    ("temporary", "preallocated-temp"),
)


@dataclass(frozen=True)
class Memory:
    """Bytes that a compiled step needs on one device.

    Attributes:
        arguments: the state, the frozen parameters and the batch.
        temporary: what is held only while it runs.
        outputs: what it returns, where that is not put in the place of arguments.
    """

    arguments: int
    temporary: int
    outputs: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.temporary + self.outputs

    def __str__(self) -> str:
        return (
            f"{self.total / GIB:.1f} GiB on each device ({self.arguments / GIB:.1f} of "
            f"arguments, {self.temporary / GIB:.1f} temporary, "
            f"{self.outputs / GIB:.1f} of outputs)"
        )


def step_memory(program: Program, *inputs: Any) -> Memory | None:
    """Return what a program's step needs, or None where the compiler does not say.

    Args:
        program: whose step is compiled; nothing is run.
        inputs: state, frozen and batch, or their shapes.
    """
    step: Any = program.step
    return memory_of(step.lower(*jax.tree.map(_shape, inputs)).compile())


def memory_of(compiled: Any) -> Memory | None:
    """Return what a compiled step needs, or None where the compiler does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    return Memory(
        arguments=found.argument_size_in_bytes,
        temporary=found.temp_size_in_bytes,
        outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    )


def memory_written(buffers: str) -> Memory:
    """Return what a program needs by the text in which XLA lists its allocations.

    Raises:
        UserError: it lists no arguments, as where the words are others than known.
    """
    sizes = {"arguments": 0, "temporary": 0, "outputs": 0}
    for size, what in ALLOCATION.findall(buffers):
        for part, word in WORDS:
            if word in what:
                sizes[part] += int(size)
                break
    if not sizes["arguments"]:
        raise UserError(
            f"the compiler lists a step's buffers in words unknown; {TRIED}"
        )
    return Memory(**sizes)


def state_memory(program: Program) -> int:
    """Return the bytes of a program's state on one device."""
    return bytes_on_device(program.shapes, program.shardings)


def bytes_on_device(shapes: Any, shardings: Any) -> int:
    """Return the bytes of arrays on one device.

    Args:
        shapes: of the arrays.
        shardings: of each, a tree of the same form.
    """
    held = jax.tree.map(
        lambda x, place: math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize,
        shapes,
        shardings,
    )
    return sum(jax.tree.leaves(held))


def _shape(x: Any) -> Any:
    sharding = x.sharding if isinstance(x, jax.Array) and x.committed else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def device_limit(device: jax.Device) -> int:
    """Return the bytes that a device has for arrays; a CPU's share of the machine's."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    if chip := chip_of(device.device_kind):
        return chip.memory
    return _machine_limit() // len(jax.local_devices())


def _machine_limit() -> int:
    """Return the bytes that this process may have of its machine, or of a container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        limits.append(most)
    container = epath.Path("/sys/fs/cgroup/memory.max")
    if container.exists() and (text := container.read_text().strip()) != "max":
        limits.append(int(text))
    return min(limits)


@contextmanager
def memory_explained(explain: Callable[[str], str]) -> Iterator[None]:
    """Say of that for which memory is short what would help.

    Args:
        explain: makes a sentence of the allocator's words.

    Raises:
        UserError: memory was short.
    """
    try:
        yield
    except JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise UserError(explain(said)) from error


def about_state(program: Program, said: str) -> str:
    """Return what a program's state needs, which was too much, and what would help."""
    limit, held = _limit(program), state_memory(program)
    return (
        f"the state of training takes {held / GIB:.1f} GiB on each device, and it has "
        f"{limit / GIB:.1f} GiB for this and all else: "
        f"{more_devices(program, held, limit)}"
    )


def about_step(
    program: Program, inputs: Callable[[], tuple[Any, ...]], said: str
) -> str:
    """Return what a step needs, which was too much, and what would help.

    Args:
        program: whose step it is.
        inputs: gives state, frozen and batch of the last step; an empty batch where
            there was none.
        said: the allocator's words.
    """
    given, limit = inputs(), _limit(program)
    if not jax.tree.leaves(given[-1]):
        return about_state(program, said)
    needed = _try(program, given)
    if needed is None:  # the compiler itself gave up, and said why
        start = f"the step does not fit into memory ({said})"
    else:
        start = (
            f"the step needs {needed}, and a device has {limit / GIB:.1f} GiB for this "
            "and all else"
        )
    return f"{start}: {advice(program, given, needed, limit)}"


def about_evaluation(said: str) -> str:
    """Return what would help where an evaluation was too much."""
    return (
        f"an evaluation does not fit into memory beside what is trained ({said}): set "
        "eval.every_steps to 0 and checkpoint.best to '' to score in the end alone, or "
        "mesh.fsdp higher"
    )


def _limit(program: Program) -> int:
    return device_limit(program.mesh.local_devices[0])


def _try(program: Program, inputs: tuple[Any, ...]) -> Memory | None:
    """Return what a step needs; None where that is more than can be compiled."""
    try:
        return step_memory(program, *inputs)
    except JaxRuntimeError:
        return None


def advice(
    program: Program, inputs: tuple[Any, ...], needed: Memory | None, limit: int
) -> str:
    """Return which setting would make a step fit.

    Args:
        program: that does not fit.
        inputs: state, frozen and batch, or their shapes.
        needed: by its step, if that is known.
        limit: bytes of a device.
    """
    if needed is not None and needed.arguments > limit:
        return more_devices(program, needed.arguments, limit)
    rows = len(jax.tree.leaves(inputs[-1])[0])
    for microbatch in smaller_microbatches(program, rows):
        smaller = with_microbatch(program, microbatch)
        found = _try(smaller, inputs)
        if found is not None and found.total <= limit:
            return (
                f"set microbatch to {microbatch}, with which it needs "
                f"{found.total / GIB:.1f} GiB"
            )
    return (
        "no microbatch is small enough: set remat.vision and remat.text to full, or "
        + more_devices(program, needed.total if needed else 2 * limit, limit)
    )


def smaller_microbatches(program: Program, rows: int) -> list[int]:
    """Return sizes to try, each at most half of the one before.

    Args:
        program: whose task has a microbatch, or has none.
        rows: of the global batch.
    """
    size = getattr(program.task, "microbatch", None)
    if size is None:
        return []
    shares = math.prod(program.mesh.shape[axis] for axis in BATCH_AXES)
    sizes, last = [], size or rows
    for candidate in range(last // 2, 0, -1):
        fits = rows % candidate == 0 and candidate % shares == 0
        if fits and 2 * candidate <= last:
            sizes.append(candidate)
            last = candidate
    return sizes


def with_microbatch(program: Program, microbatch: int) -> Program:
    """Return the same program with another microbatch of its task."""
    task: Any = program.task
    return build_program(
        replace(task, microbatch=microbatch),
        program.optimizer,
        program.mesh,
        program.frozen,
    )


def more_devices(program: Program, held: int, limit: int) -> str:
    """Return over how many devices parameters would have to be split, in words.

    Args:
        program: whose mesh there is.
        held: bytes on each device.
        limit: bytes that there may be.
    """
    fsdp, devices = program.mesh.shape["fsdp"], program.mesh.devices.size
    wanted = fsdp * max(2, math.ceil(held / limit))
    for size in range(wanted, devices + 1):
        if devices % size == 0:
            return f"split what is held over more devices: set mesh.fsdp to {size}"
    return (
        f"take a model or a batch that is smaller, or at least {wanted} devices and "
        f"mesh.fsdp {wanted}"
    )

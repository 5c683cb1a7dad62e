"""What a program computes, moves through memory, and says to other devices."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core

from kdjax.parallel.hlo import Instruction, Module, Shape

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# Where a collective goes on beside other work, the text has it once more in every
# fusion that it goes on in, and where it ends.
GOES_ON = "async_collective_fusion"
BEGINS, ENDS = "AsyncCollectiveStart", "AsyncCollectiveDone"
# What moves nothing: it renames, or its parts are counted where they are.
FREE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "iota",
    "async-start",
)
# Calls of the compiler to itself that give memory a name.
NAMING = re.compile(
    'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound'
    '|NopReturnToken|AsyncCollective(Start|Done))"'
)
SLICES = ("dynamic-slice", "slice", "gather")
# What hosts pass on to other slices, whose programs are one within each.
FAR = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
GROUPS = re.compile(r"replica_groups=(mesh\[.*?\}|.*?(?=, \w+=|$))")
IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
ORDER = re.compile(r"device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\)")
MESH_AXIS = re.compile(r"'(\w+)'=(\d+)")
SOME_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")
PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")


@dataclass(frozen=True)
class Collective:
    """What devices say to each other in one line of a program.

    Attributes:
        kind: such as all-gather.
        scope: of the program that it comes from, as JAX names it.
        over: axes of the mesh whose devices take part.
        runs: in a step.
        size: bytes of the arrays, whole: what is gathered or reduced.
        near: bytes that a device sends inside its slice.
        far: bytes that it sends to other slices.
    """

    kind: str
    scope: str
    over: tuple[str, ...]
    runs: int
    size: int
    near: int
    far: int


def collectives(
    module: Module, axes: Mapping[str, int], slices: Sequence[int]
) -> list[Collective]:
    """Return what the devices of a mesh say to each other in a program.

    What is sent is the least that can be: of n devices each passes on (n - 1) / n of
    what is gathered or scattered, and twice as much of what all reduce. Over several
    slices it is done inside each of them, and across them by parts.

    Args:
        module: the program.
        axes: sizes of the mesh that it is for.
        slices: in which slice each device of the mesh is, by its place there.
    """
    found = []
    for name, runs in module.runs.items():
        lines = module.computations[name]
        if name.startswith(GOES_ON) or any(ENDS in x.rest for x in lines):
            continue
        for line in lines:
            kind = _kind(line)
            if kind in KINDS:
                found.append(_collective(kind, line, runs, module, axes, slices))
    return found


def _kind(line: Instruction) -> str:
    """Return what kind of collective a line is, if it is one."""
    if line.opcode == "send" and (far := FAR.search(line.rest)):
        return far[1].lower().replace("_", "-")
    return line.opcode.removesuffix("-start")


def _collective(
    kind: str,
    line: Instruction,
    runs: int,
    module: Module,
    axes: Mapping[str, int],
    slices: Sequence[int],
) -> Collective:
    if line.opcode == "send":  # by a device of each slice
        group = tuple(map(slices.index, dict.fromkeys(slices)))
        given = line.shapes[0].bytes
    else:
        group = first_group(line.rest, len(slices))
        arrays = (module.by_name[name].shapes for name in line.operands)
        given = sum(x.bytes for shapes in arrays for x in shapes)
    count = len(group)
    apart = len({slices[place] for place in group})
    size = given * count if kind == "all-gather" else given
    near, far = _sent(kind, size, count, apart)
    scope = re.search(r'op_name="([^"]*)"', line.rest)
    return Collective(
        kind,
        scope[1] if scope else "",
        axes_of(group, axes),
        runs,
        runs * size,
        round(runs * near),
        round(runs * far),
    )


def _sent(kind: str, size: int, count: int, slices: int) -> tuple[float, float]:
    """Return the bytes that a device sends near and far."""
    inside = count // slices
    if kind == "collective-permute":
        return (size, 0) if slices == 1 else (0, size)
    if kind == "all-to-all":
        return size * (inside - 1) / count, size * (count - inside) / count
    times = 2 if kind == "all-reduce" else 1
    near, far = size * (inside - 1) / inside, size * (slices - 1) / count
    return times * near, times * far


def first_group(rest: str, devices: int) -> tuple[int, ...]:
    """Return the devices that are the first to take part in a collective together.

    Args:
        rest: attributes of the collective.
        devices: in all, which take part where no others are named.
    """
    if pairs := PAIRS.search(rest):
        return tuple(map(int, re.findall(r"\d+", pairs[1])))[:2]
    found = GROUPS.search(rest)
    text = found[1] if found else ""
    if text.startswith("mesh"):
        return _of_mesh(text)
    if iota := IOTA.match(text):
        groups, sizes, order = (_numbers(x or "") for x in iota.groups())
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        ids = ids.transpose(order) if order else ids
        return tuple(ids.reshape(groups)[0].tolist())
    if listed := re.match(r"\{\{([\d,]+)\}", text):
        return tuple(_numbers(listed[1]))
    return tuple(range(devices))


def _of_mesh(text: str) -> tuple[int, ...]:
    """Return the first group of the form mesh['a'=4,'b'=2] {'a':(1)2,'b'}.

    Of devices in another order `, device_ids=([2,4]T(1,0))` or a list stands between.
    """
    whole, _, named = text.partition("]")
    axes = {name: int(size) for name, size in MESH_AXIS.findall(whole)}
    ids = np.arange(math.prod(axes.values()))
    if ordered := ORDER.search(named):
        sizes, order, listed = (_numbers(x or "") for x in ordered.groups())
        ids = np.array(listed or ids.reshape(sizes).transpose(order or None))
        named = named[ordered.end() :]
    ids = ids.reshape(tuple(axes.values()))
    taken: list[Any] = [slice(0, 1)] * len(axes)
    for name, before, size in SOME_AXIS.findall(named):
        after = axes[name] // (int(before) * int(size)) if size else 1
        place = list(axes).index(name)
        taken[place] = slice(0, int(size or axes[name]) * after, after)
    return tuple(ids[tuple(taken)].ravel().tolist())


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def axes_of(group: Sequence[int], axes: Mapping[str, int]) -> tuple[str, ...]:
    """Return over which axes of a mesh devices of one group are spread."""
    places = np.unravel_index(np.asarray(group), tuple(axes.values()))
    pairs = zip(axes, places, strict=True)
    return tuple(axis for axis, place in pairs if len(set(place.tolist())) > 1)


def memory_traffic(module: Module) -> int:
    """Return the bytes that a device reads from its memory and writes to it.

    Every operation reads what it takes and writes what it gives; of an array that is
    cut or filled in part, that part. What is held beside the cores costs nothing.
    """
    fused = {
        line.attribute("calls")
        for name in module.runs
        for line in module.computations[name]
        if line.opcode == "fusion"
    }
    return sum(
        runs * sum(_moved(line, module) for line in module.computations[name])
        for name, runs in module.runs.items()
        if name not in fused
    )


def _moved(line: Instruction, module: Module) -> int:
    """Return the bytes that a line of a program reads and writes."""
    if line.opcode in FREE or line.opcode.endswith(("-done", "-update")):
        return 0
    if line.opcode == "custom-call" and NAMING.search(line.rest):
        return 0
    if line.opcode == "fusion":
        return _moved_by_fusion(line, module)
    given = [module.by_name[name] for name in line.operands]
    if line.opcode == "dynamic-update-slice":
        update = given[1].shapes[0]
        return update.padded_bytes * (_off_chip(update) + _off_chip(line.shapes[0]))
    if line.opcode in (*SLICES, "copy-start"):  # which names what it takes once more
        source, made = given[0].shapes[0], line.shapes[0]
        return made.padded_bytes * (_off_chip(source) + _off_chip(made))
    return _held(line) + sum(map(_held, given))


def _off_chip(array: Shape) -> bool:
    return not array.on_chip


def _held(line: Instruction) -> int:
    """Return what a value takes of memory."""
    return sum(x.padded_bytes for x in line.shapes if not x.on_chip)


def _moved_by_fusion(line: Instruction, module: Module) -> int:
    called = line.attribute("calls")
    read = sum(
        min(_held(x), _read_of(x, module))
        for x in module.computations[called]
        if x.opcode == "parameter"
    )
    results = module.results(called)
    return read + sum(min(_held(x), _written(x, module)) for x in results)


def _read_of(value: Instruction, module: Module) -> int:
    """Return how many bytes of a value are read by what takes it inside a fusion."""
    return sum(
        _read_by(user, place, value, module)
        for user in module.users[value.name]
        for place, name in enumerate(user.operands)
        if name == value.name
    )


def _read_by(user: Instruction, place: int, value: Instruction, module: Module) -> int:
    if user.opcode in SLICES and place == 0:
        return _room(user)
    if user.opcode == "dynamic-update-slice" and place == 0:
        return 0
    if user.opcode in (*KINDS, "custom-call", "tuple"):
        return 0  # what goes on beside it, and is counted where it begins
    if user.opcode == "bitcast" and not user.root:
        return _read_of(user, module)
    if user.opcode == "fusion":
        return _read_of(module.parameters(user.attribute("calls"))[place], module)
    return _room(value)


def _written(given: Instruction, module: Module) -> int:
    """Return how many bytes of what a fusion gives are written."""
    if BEGINS in given.rest:
        collective = module.by_name[given.operands[0]]
        return _room(collective) + sum(
            _room(module.by_name[name]) for name in collective.operands
        )
    if given.opcode in (*KINDS, "custom-call", "parameter"):
        return 0
    if given.opcode == "dynamic-update-slice":
        return _room(module.by_name[given.operands[1]])
    if given.opcode == "bitcast":
        return _written(module.by_name[given.operands[0]], module)
    if given.opcode == "fusion":
        inside = module.results(given.attribute("calls"))
        return sum(_written(x, module) for x in inside)
    return _room(given)


def _room(line: Instruction) -> int:
    return sum(x.padded_bytes for x in line.shapes)


def product_flops(jaxpr: Any) -> int:
    """Return the operations of all matrix products of a traced program.

    They are of all devices together and as often as they are computed: what is computed
    again for the gradient counts again. Two for every multiply-add.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    params, name = equation.params, equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * _size(equation.outvars[0]) * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * _size(equation.outvars[0]) * math.prod(kernel) // features
    if name == "pallas_call":
        estimate = params.get("cost_estimate")
        return int(estimate.flops) if estimate else 0
    inner = [product_flops(x) for x in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0)
    if name == "shard_map":
        return math.prod(params["mesh"].shape.values()) * sum(inner)
    return sum(inner)


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _inner(params: Any) -> Iterator[Any]:
    """Yield the programs inside an operation."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one

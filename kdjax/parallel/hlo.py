"""The text of an optimised program, read: what runs how often, and what it moves.

XLA's own cost analysis counts the body of a loop once. Here everything counts as often
as it runs, so far as the text says how often that is.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

BITS = re.compile(r"[a-z]+(\d+)")
SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^{}]*\})?")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
NAME = re.compile(r"%([\w.\-]+)")
# From minor to major, and the tile that the minor ones lie in.
TILED = re.compile(r"\{([\d,]+):T\(([\d,]+)\)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Memory that is on the chip beside the cores, and not its high-bandwidth memory.
ON_CHIP = re.compile(r"S\([1-9]\d*\)")


@dataclass(frozen=True)
class Shape:
    """One array.

    Attributes:
        bytes: of it.
        padded_bytes: bytes that it takes in memory, where tiles of it are filled up.
        on_chip: whether it is held beside the cores.
    """

    bytes: int
    padded_bytes: int
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: of its value, of which there is one in the program.
        shapes: of its value, a tuple's one by one.
        opcode: what it does.
        operands: names of what it takes; of a constant, what it is; of a parameter, its
            number.
        rest: its attributes, as they stand there.
        root: whether its computation returns it.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, name: str) -> str:
        """Return the name that an attribute gives, such as `body`, or ""."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


@dataclass(frozen=True)
class Module:
    """A whole program.

    Attributes:
        computations: their instructions, by name.
        entry: name of the one that is called.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """All instructions."""
        return {x.name: x for some in self.computations.values() for x in some}

    @cached_property
    def users(self) -> Mapping[str, Sequence[Instruction]]:
        """What takes a value, by the value's name."""
        found: defaultdict[str, list[Instruction]] = defaultdict(list)
        for line in self.by_name.values():
            for name in dict.fromkeys(line.operands):
                found[name].append(line)
        return found

    def parameters(self, name: str) -> list[Instruction]:
        """Return the parameters of a computation, in their order."""
        found = (x for x in self.computations[name] if x.opcode == "parameter")
        return sorted(found, key=lambda x: int(x.operands[0]))

    def results(self, name: str) -> list[Instruction]:
        """Return what a computation returns, a tuple's parts one by one."""
        root = next(x for x in self.computations[name] if x.root)
        if root.opcode != "tuple":
            return [root]
        return [self.by_name[operand] for operand in root.operands]

    @cached_property
    def runs(self) -> Mapping[str, int]:
        """How often each computation runs; what is not here never does."""
        found: Counter[str] = Counter()
        waiting = [(self.entry, 1)]
        while waiting:
            name, times = waiting.pop()
            found[name] += times
            for line in self.computations[name]:
                trips = self.trips(line)
                turns = times * (1 if trips is None else trips)
                waiting += [(called, turns) for called in called_by(line)]
        return found

    def trips(self, loop: Instruction) -> int | None:
        """Return how often a loop runs, or None where the text does not say.

        The compiler writes it down, or the loop counts from 0 and is compared with it.
        """
        if loop.opcode != "while":
            return None
        if found := TRIPS.search(loop.rest):
            return int(found[1])
        lines = self.computations[loop.attribute("condition")]
        numbers = [x.operands[0] for x in lines if x.opcode == "constant"]
        compared = any("direction=LT" in x.rest for x in lines)
        if compared and len(numbers) == 1 and numbers[0].isdigit():
            return int(numbers[0])
        return None

    @cached_property
    def unknown_loops(self) -> int:
        """Loops of which the text does not say how often they run."""
        run = (x for name in self.runs for x in self.computations[name])
        return sum(x.opcode == "while" and self.trips(x) is None for x in run)


def called_by(instruction: Instruction) -> list[str]:
    """Return the computations that an instruction runs.

    What reduces or compares two numbers is no part of the program's course.
    """
    if instruction.opcode == "while":
        return [instruction.attribute("body")]
    if instruction.opcode in ("fusion", "async-start"):
        return [instruction.attribute("calls")]
    if instruction.opcode == "call":
        return [instruction.attribute("to_apply")]
    if instruction.opcode == "conditional":
        listed = re.search(r"branch_computations=\{(.*?)\}", instruction.rest)
        if listed:
            return NAME.findall(listed[1])
        return [instruction.attribute(f"{x}_computation") for x in ("true", "false")]
    return []


def read(text: str) -> Module:
    """Return a program from the text that XLA has of it."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    lines: list[Instruction] = []
    name = entry = ""
    for line in text.splitlines():
        if head := HEAD.match(line):
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            computations[name] = tuple(lines)
        elif found := LINE.match(line):
            lines.append(_instruction(found))
    return Module(computations, entry)


def _instruction(line: re.Match[str]) -> Instruction:
    root, name, shapes, opcode, rest = line.groups()
    given, rest = _parted(rest)
    sizes = tuple(_shape(*found) for found in SHAPE.findall(shapes))
    own = opcode in ("constant", "parameter")
    operands = (given,) if own else tuple(NAME.findall(given))
    return Instruction(name, sizes, opcode, operands, rest, bool(root))


def _parted(rest: str) -> tuple[str, str]:
    """Return what stands in the brackets that are open, and what follows them."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:place], rest[place + 1 :]
    return rest, ""


def _shape(kind: str, sizes: str, layout: str) -> Shape:
    shape = [int(size) for size in sizes.split(",") if size]
    bits = BITS.match(kind)
    width = int(bits[1]) if bits else 8 * (kind == "pred")
    padded = math.prod(_tiled(shape, layout)) * width // 8
    return Shape(math.prod(shape) * width // 8, padded, bool(ON_CHIP.search(layout)))


def _tiled(shape: Sequence[int], layout: str) -> list[int]:
    """Return a shape as it lies in memory, from major to minor, its tiles filled up."""
    found = TILED.match(layout)
    if found is None:
        return list(shape)
    order, tile = ([int(x) for x in part.split(",")] for part in found.groups())
    lying = [shape[i] for i in reversed(order)]
    whole, cut = lying[: -len(tile)], lying[-len(tile) :]
    return whole + [-(-n // t) * t for n, t in zip(cut, tile, strict=True)]

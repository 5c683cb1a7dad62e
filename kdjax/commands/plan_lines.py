"""What people, and programs, read of a plan."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdjax.commands.plan import Plan
from kdjax.parallel.chips import GIB
from kdjax.parallel.costs import Collective
from kdjax.parallel.roofline import Roofline
from kdjax.training.tasks import TEACHERS

MIB = 2**20
# What is not known of a step that does not fit.
PARTS = ("arguments", "temporary", "outputs")
UNKNOWN = (
    "flops",
    "traffic",
    "unknown_loops",
    "collectives",
    "seconds",
    "bottleneck",
    "run",
)
SIMULATED = (
    "compiled for CPU devices in place of GPUs, whose compiler needs one: arguments "
    "and FLOPs hold; temporary memory, traffic and what devices say to each other are "
    "those of a CPU's program, so time is of the products alone, which no step beats"
)


@dataclass(frozen=True)
class Exchange:
    """Collectives of one kind, together.

    Attributes:
        whose: student or teachers.
        kind: such as all-gather.
        over: axes of the mesh.
        runs: in a step.
        size: bytes of the whole arrays.
        near: bytes that a device sends inside its slice.
        far: bytes that it sends to other slices.
    """

    whose: str
    kind: str
    over: str
    runs: int
    size: int
    near: int
    far: int


def together(collectives: Iterable[Collective]) -> list[Exchange]:
    """Return collectives by whose they are, their kind and their axes."""
    groups: dict[tuple[str, str, str], list[Collective]] = {}
    for one in collectives:
        key = (_whose(one.scope), one.kind, " x ".join(one.over) or "one device")
        groups.setdefault(key, []).append(one)
    found = [
        Exchange(
            *key,
            sum(x.runs for x in some),
            sum(x.size for x in some),
            sum(x.near for x in some),
            sum(x.far for x in some),
        )
        for key, some in groups.items()
    ]
    return sorted(found, key=lambda x: (x.whose, -x.size))


def _whose(scope: str) -> str:
    """Return whose part of the program it is; where it is of both, the student's."""
    parts = (re.search(rf"\b{TEACHERS}\b", part) for part in scope.split(":"))
    return TEACHERS if all(parts) else "student"


def lines(plan: Plan) -> list[str]:
    """Return a plan for people."""
    shape = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    models = ", ".join(f"{k} {n / 1e6:.1f} M" for k, n in plan.models.items())
    config = plan.config
    rows = config.batch_size // (plan.mesh["data"] * plan.mesh["fsdp"])
    remat = ", ".join(f"{k} {v}" for k, v in config.remat.items())
    told = [
        f"topology    {plan.topology}: {plan.devices} devices, mesh {shape}",
        f"models      {models} parameters",
        f"batch       {config.batch_size}, {rows} on each device; "
        f"microbatch {config.microbatch}; remat {remat}",
        f"planned     in {plan.seconds:.0f} s",
    ]
    if not plan.compiled_for_it:
        told.append(f"note        {SIMULATED}")
    told += ["", *_memory(plan)]
    if plan.roofline is not None and plan.step is not None:
        told += ["", *_work(plan, plan.roofline)]
        if plan.roofline.collectives:
            told += ["", *_exchanges(plan.roofline)]
        told += ["", *_time(plan, plan.roofline, plan.step)]
    return told


def _memory(plan: Plan) -> list[str]:
    told = ["memory of a device, GiB"]
    if plan.memory is not None:
        told += [
            _row("arguments", plan.memory.arguments / GIB, f"{_state(plan)} of state"),
            _row("temporary", plan.memory.temporary / GIB),
            _row("outputs", plan.memory.outputs / GIB),
        ]
    share = 100 * plan.needed / plan.limit
    of = f"of {plan.limit / GIB:.2f}, {share:.0f} %"
    end = "" if plan.fits else ": it does not fit; kdjax plan --fit looks for what does"
    return [*told, _row("needed", plan.needed / GIB, of + end)]


def _state(plan: Plan) -> str:
    return f"{plan.state / GIB:.2f}"


def _work(plan: Plan, found: Roofline) -> list[str]:
    loops = found.unknown_loops
    counted = f"{loops} loops of unknown length count once" if loops else ""
    return [
        "work of a device in a step",
        *_model(plan),
        _row("computed", found.flops / 1e12, "TFLOP of matrix products"),
        _row("traffic", found.traffic / GIB, f"GiB with its memory {counted}".rstrip()),
    ]


def _model(plan: Plan) -> list[str]:
    if plan.model_flops is None:
        return []
    each = plan.model_flops / plan.devices / 1e12
    return [_row("model", each, "TFLOP that the models need")]


def _exchanges(found: Roofline) -> list[str]:
    head = ("between devices, MiB", "kind", "over", "runs", "whole", "sent", "far")
    rows: list[Sequence[str]] = [head]
    for x in together(found.collectives):
        sizes = (f"{n / MIB:.2f}" for n in (x.size, x.near + x.far, x.far))
        rows.append((f"  {x.whose}", x.kind, x.over, str(x.runs), *sizes))
    left = [max(len(row[i]) for row in rows) for i in range(3)]
    return [
        "  ".join(
            [
                *(cell.ljust(n) for cell, n in zip(row[:3], left, strict=True)),
                *(cell.rjust(9) for cell in row[3:]),
            ]
        )
        for row in rows
    ]


def _time(plan: Plan, found: Roofline, step: float) -> list[str]:
    told = ["time of a step at full rates, ms"]
    if plan.compiled_for_it:
        told += [_row(part, 1e3 * seconds) for part, seconds in found.seconds.items()]
        told.append(_row("step", 1e3 * step, f"bottleneck: {found.bottleneck}"))
    else:
        told.append(_row("compute", 1e3 * step, "a step takes at least that"))
    least, most = ("", "") if plan.compiled_for_it else ("at least ", "at most ")
    run = whole_run(plan, step)
    told += ["", f"the run     {most}{run['samples_per_second']:,.0f} samples/s"]
    epochs = f", {run['epochs']:.1f} epochs" if "epochs" in run else ""
    told.append(
        f"            {run['steps']:,} steps, {run['samples'] / 1e6:,.1f} M samples"
        f"{epochs}: {least}{run['hours']:.2f} h, {run['chip_hours']:,.1f} chip-hours"
    )
    return told


def _row(name: str, value: float, more: str = "") -> str:
    return f"  {name:<10}{value:>10.2f}  {more}".rstrip()


def whole_run(plan: Plan, step: float) -> dict[str, Any]:
    """Return what the whole run takes, if every step takes so many seconds."""
    steps, batch = plan.config.steps, plan.config.batch_size
    hours = steps * step / 3600
    size = plan.config.data.get("size")
    return {
        "steps": steps,
        "samples": steps * batch,
        **({"epochs": steps * batch / size} if size else {}),
        "samples_per_second": batch / step,
        "hours": hours,
        "chip_hours": hours * plan.devices,
    }


def as_json(plan: Plan) -> Mapping[str, Any]:
    """Return a plan for programs; bytes, operations and seconds."""
    found, memory = plan.roofline, plan.memory
    told: dict[str, Any] = {
        "topology": plan.topology,
        "mesh": dict(plan.mesh),
        "compiled_for_it": plan.compiled_for_it,
        "models": dict(plan.models),
        "batch_size": plan.config.batch_size,
        "microbatch": plan.config.microbatch,
        "remat": dict(plan.config.remat),
        "fits": plan.fits,
        "memory": {
            "needed": plan.needed,
            "limit": plan.limit,
            "state": plan.state,
            **(vars(memory) if memory else dict.fromkeys(PARTS)),
        },
        "model_flops": plan.model_flops,
    }
    if found is None or plan.step is None:
        return told | dict.fromkeys(UNKNOWN)
    parts = found.seconds if plan.compiled_for_it else {"compute": plan.step}
    return told | {
        "flops": found.flops,
        "traffic": found.traffic,
        "unknown_loops": found.unknown_loops,
        "collectives": [vars(x) for x in together(found.collectives)],
        "seconds": {**dict.fromkeys(found.seconds), **parts, "step": plan.step},
        "bottleneck": found.bottleneck if plan.compiled_for_it else None,
        "run": whole_run(plan, plan.step),
    }

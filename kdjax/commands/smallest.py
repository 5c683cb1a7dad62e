"""The smallest machine that a run fits on, with as few compilations as will do."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from ml_collections import ConfigDict

from kdjax.commands.apart import apart
from kdjax.commands.plan import Plan, plan
from kdjax.commands.reporter import Reporter
from kdjax.commands.schema import check_words, command_of
from kdjax.errors import UserError
from kdjax.parallel.chips import CHIPS, GIB
from kdjax.parallel.mesh import mesh_shape
from kdjax.parallel.topology import count, names_of, parse

# Rows of a device in a microbatch, below which chips are not kept busy.
FEWEST_ROWS = 16
# What holds less by its rows may need more, as a compiler makes it: on v5e:1x1 a
# microbatch of 64 needs 1.07 times what one of 128 does of CLIP-KD's models, and up to
# 1.7 times of the smallest there are. So what is within this of what there is is tried,
# and what is beyond it settles what is before it.
NEAR = 2.0


@dataclass(frozen=True)
class Setting:
    """How much a step holds.

    Attributes:
        microbatch: rows that the towers see at a time; 0 for all.
        remat: what of the towers is computed again.
    """

    microbatch: int
    remat: str

    def of(self, config: ConfigDict) -> ConfigDict:
        """Return a config with this setting."""
        changed = config.copy_and_resolve_references()
        changed.microbatch = self.microbatch
        for tower in changed.remat:
            changed.remat[tower] = self.remat
        return changed

    def __str__(self) -> str:
        return f"microbatch {self.microbatch}, remat {self.remat}"


def settings(batch_size: int, devices: int) -> list[Setting]:
    """Return settings to try, from what holds most to what holds least or nearly so.

    Args:
        batch_size: of the run.
        devices: over which a batch is split.
    """
    ladder = [Setting(0, remat) for remat in ("none", "dots", "full")]
    rows = batch_size // 2
    while rows >= FEWEST_ROWS * devices and rows % devices == 0:
        if batch_size % rows == 0:
            ladder.append(Setting(rows, "full"))
        rows //= 2
    return ladder


def smallest(config: ConfigDict, name: str, reporter: Reporter) -> Plan:
    """Return the plan of the smallest topology of a chip on which a step fits.

    There it has the first of `settings` that fits. Both hold if no setting needs more
    than `NEAR` times what one before it does: only what that rules out is not tried. A
    topology is passed over where even an equal share of what was needed on a smaller
    one is too much.

    Args:
        config: of the run.
        name: a chip, or the largest of its topologies to consider.
        reporter: is told what is tried.

    Raises:
        UserError: it fits on none, or the config does not work.
    """
    began = time.monotonic()
    check_words(command_of(config), config)
    least = 0.0
    for candidate in _possible(config, name):
        devices = count(candidate)
        if least > devices * CHIPS[parse(candidate)[0]].memory:
            reporter.say(f"plan: {candidate} is too small, by what was tried")
            continue
        ladder = settings(config.batch_size, _shares(config, devices) or devices)
        attempt = cache(partial(_attempt, config, candidate, ladder, reporter))
        found = _first(attempt, len(ladder))
        if found is not None:
            return replace(found, seconds=time.monotonic() - began)
        least = attempt(len(ladder) - 1).needed * devices / NEAR
    raise UserError(
        f"the run fits on no topology up to {name}: take a larger chip, a smaller "
        "batch_size, or split what is held by mesh.fsdp"
    )


def _first(attempt: Callable[[int], Plan], number: int) -> Plan | None:
    """Return the first plan that fits, of so many that need less and less or nearly so.

    Plans before one that needs far more than there is need more than there is.
    """

    def near(place: int) -> bool:
        found = attempt(place)
        return found.needed <= NEAR * found.limit

    if not near(number - 1):
        return None
    begin = bisect_left(range(number), True, key=near)
    return next((x for x in map(attempt, range(begin, number)) if x.fits), None)


def _possible(config: ConfigDict, name: str) -> list[str]:
    """Return the topologies up to one over which a run's batch can be split.

    Raises:
        UserError: there is none.
    """
    possible = [x for x in candidates(name) if _splits(config, count(x))]
    if not possible:
        mesh = ", ".join(f"{axis} {size}" for axis, size in config.mesh.items())
        raise UserError(
            f"no topology up to {name} has a mesh of {mesh} over which batch_size "
            f"{config.batch_size} can be split: set mesh.data to -1, or another batch"
        )
    return possible


def _splits(config: ConfigDict, devices: int) -> bool:
    """Return whether so many devices have a run's mesh, and its batch their shares."""
    shares = _shares(config, devices)
    return shares is not None and config.batch_size % shares == 0


def _shares(config: ConfigDict, devices: int) -> int | None:
    """Return over how many of so many devices a batch is split; None if none can be."""
    try:
        data, fsdp, _ = mesh_shape(dict(config.mesh), devices)
    except UserError:
        return None
    return data * fsdp


def _attempt(
    config: ConfigDict,
    candidate: str,
    ladder: Sequence[Setting],
    reporter: Reporter,
    place: int,
) -> Plan:
    setting = ladder[place]
    found = apart(plan, setting.of(config), candidate, 1, reporter)
    needed, limit = found.needed / GIB, found.limit / GIB
    reporter.say(
        f"plan: {candidate}, {setting}: {needed:.2f} of {limit:.2f} GiB"
        f"{'' if found.fits else ', which is too much'}"
    )
    return found


def candidates(name: str) -> list[str]:
    """Return the topologies of a chip from small to large, up to one that is given.

    Args:
        name: a chip, or a topology.
    """
    chip, _, shape = name.partition(":")
    known = names_of(chip)
    if not shape:
        return known
    return [*(x for x in known if count(x) < count(name)), name]

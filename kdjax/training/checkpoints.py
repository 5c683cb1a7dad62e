"""Checkpoints of the state, the data iterator and what a run knows, by Orbax."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.errors import JaxRuntimeError

from kdjax import hosts
from kdjax.errors import Transient, UserError
from kdjax.training import integrity
from kdjax.training.choosing import Best
from kdjax.training.steps import TrainState

FOLDER = "checkpoints"
# Before the number of a step whose folder cannot be restored.
DAMAGED = "damaged-"
# What a host finds of a checkpoint, where it is not the number of its step.
IS_DAMAGED, IS_HINDERED = -1, -2
ELSEWHERE = "as another host finds it"
JSON = ocp.args.JsonRestore()
# What to do where no checkpoint can be restored: a run's own, and another's.
BEGIN_ANEW = "remove the folder, and the same command begins anew"
NAME_ANOTHER = "name another model, or let that run save another checkpoint"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """What a checkpoint knows of its run beside the arrays.

    Attributes:
        seed: of the parameters and the data; with the step it is all that is random.
        seconds: of training so far.
        best: the best score so far, where one is asked for and there was one.
    """

    seed: int
    seconds: float
    best: Best | None = None


class Restored(NamedTuple):
    """What was in a checkpoint; the data iterator is set."""

    state: TrainState
    record: Record


class _Content(NamedTuple):
    """What is read of a checkpoint.

    Attributes:
        state: the arrays that are asked for.
        data: the iterator's state.
        bits: the sum of the bits of each array that was saved, by its name.
        record: the fields of a `Record`, as JSON has them.
    """

    state: Any
    data: Any
    bits: Mapping[str, int]
    record: Mapping[str, Any]


@dataclass
class _Kept:
    """Which checkpoints stay: the newest ones, and the best.

    Orbax's own rule for the best reads a file of every checkpoint when it begins, and a
    damaged one would end the run.
    """

    newest: int
    best: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Return, for checkpoints from old to new, whether each stays."""
        newest = [info.step for info in checkpoints[-self.newest :]]
        return [info.step in (*newest, self.best) for info in checkpoints]


class Checkpoints:
    """A run's checkpoints: asynchronous and atomic.

    All hosts do the same with them, for they wait for each other in it.
    """

    def __init__(
        self, workdir: epath.Path, keep: int, say: Say = lambda line: None
    ) -> None:
        """Look at those that are there; what was left unfinished is removed.

        Args:
            workdir: of the run.
            keep: newest checkpoints that stay, beside the best.
            say: is told of damaged ones.

        Raises:
            UserError: a file is where their folder would be.
        """
        self._say = say
        self._kept = _Kept(keep)
        self._directory = _directory_of(workdir)
        if self._directory.exists() and not self._directory.is_dir():
            raise UserError(
                f"{self._directory} is a file, and the run's checkpoints go into a "
                "folder of that name: remove it, or give another workdir"
            )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                cleanup_tmp_directories=True,
                # Otherwise a host may write into what another has still to make.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def save(self, state: TrainState, iterator: Any, record: Record) -> None:
        """Begin to save; the state may be donated as soon as this returns."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._kept.best = record.best.step if record.best else None
        data = iterator.get_state()
        about = {**asdict(record), "bits": integrity.sums_of_bits(state)}
        # All hosts have the same; Grain's own handler is for so many hosts as saved.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(data),
            run=ocp.args.JsonSave({**about, "digest": integrity.digest(data, about)}),
        )
        self._manager.save(step, args=args)

    def restore(
        self, shapes: TrainState, shardings: TrainState, iterator: Any
    ) -> Restored | None:
        """Return the newest checkpoint that is whole, or None where there is none.

        Damaged ones that are newer are put aside, so that their steps are saved anew.

        Raises:
            UserError: all are damaged.
            Transient: one cannot be read now, which is no damage.
        """
        newest = sorted(self._manager.all_steps(), reverse=True)
        restored = self._first(newest, shapes, shardings, iterator)
        if restored is None or self._kept.best in (None, *self._manager.all_steps()):
            return restored
        self._kept.best = None  # it was damaged, or went when a better one came
        return restored._replace(record=replace(restored.record, best=None))

    def state_after(
        self, steps: Sequence[int], shapes: TrainState, shardings: TrainState
    ) -> TrainState:
        """Return the state after the first of some saved steps that is whole.

        Raises:
            UserError: all of their checkpoints are damaged.
            Transient: one cannot be read now.
        """
        self._manager.wait_until_finished()
        restored = self._first(steps, shapes, shardings)
        assert restored is not None
        return restored.state

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _first(
        self,
        steps: Iterable[int],
        shapes: TrainState,
        shardings: TrainState,
        iterator: Any = None,
    ) -> Restored | None:
        """Return the first of some checkpoints that is whole; put aside the others."""
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            shardings,
        )

        names = integrity.names_of(target)

        def read(folder: epath.Path) -> _Content:
            return _read(folder, ocp.args.StandardRestore(target), names)

        folders = [self._directory / str(step) for step in steps]
        damaged: dict[epath.Path, str] = {}
        content = _first_whole(folders, read, damaged, self._say, BEGIN_ANEW)
        if damaged:
            self._put_aside(damaged)
        if content is None:
            return None
        if iterator is not None:
            iterator.set_state(content.data)
        best = content.record["best"] and Best(**content.record["best"])
        self._kept.best = best.step if best else None
        return Restored(content.state, Record(**{**content.record, "best": best}))

    def _put_aside(self, folders: Iterable[epath.Path]) -> None:
        if hosts.is_first():
            for folder in folders:
                folder.rename(_unused(folder.with_name(f"{DAMAGED}{folder.name}")))
        hosts.wait("damaged checkpoints are put aside")
        self._manager.reload()


def _unused(path: epath.Path) -> epath.Path:
    """Return a path, or the first of "path-2", "path-3" and on, where nothing is."""
    numbered = (path.with_name(f"{path.name}-{k}") for k in itertools.count(2))
    return next(x for x in itertools.chain([path], numbered) if not x.exists())


def steps_of(workdir: epath.Path) -> list[int]:
    """Return the steps of which a run has checkpoints, from new to old."""
    directory = _directory_of(workdir)
    if not directory.is_dir():
        return []
    return sorted(ocp.utils.checkpoint_steps(directory), reverse=True)


def restore_model(workdir: epath.Path, target: Any, say: Say) -> Any:
    """Return the model's parameters from a run's newest checkpoint that is whole.

    Where the run has an average of them, it is that. Nothing of the run is changed. All
    hosts must ask.

    Args:
        workdir: of the run.
        target: nested dicts of their shapes, dtypes and shardings.
        say: is told of damaged checkpoints.

    Returns:
        The parameters, or None where there is no checkpoint.

    Raises:
        UserError: all checkpoints are damaged, or of another model.
        Transient: one cannot be read now.
    """

    def read(folder: epath.Path) -> _Content:
        saved = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
        part = "params" if saved["ema"] is None else "ema"
        # The sums are of the bits that were saved, in the dtype that they have.
        as_saved = jax.tree.map(
            lambda x, y: jax.ShapeDtypeStruct(x.shape, y.dtype, sharding=x.sharding),
            target,
            saved[part]["model"],
        )
        wanted = {part: {"model": as_saved}}
        args = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        return _read(folder, args, integrity.names_of(wanted), of_part=True)

    folders = [_directory_of(workdir) / str(step) for step in steps_of(workdir)]
    content = _first_whole(folders, read, {}, say, NAME_ANOTHER)
    if content is None:
        return None
    (part,) = content.state.values()
    return jax.tree.map(lambda x, y: x.astype(y.dtype), part["model"], target)


def _directory_of(workdir: epath.Path) -> epath.Path:
    """Return where checkpoints are, as Orbax has it.

    It takes absolute paths only; those of buckets are, and would be broken.
    """
    directory = workdir / FOLDER
    return directory if "://" in str(workdir) else directory.resolve()


def _read(
    folder: epath.Path,
    state: ocp.args.CheckpointArgs,
    names: Collection[str],
    of_part: bool = False,
) -> _Content:
    """Return what is in a checkpoint; each host reads alone and waits for no other.

    Args:
        folder: of the checkpoint.
        state: how the arrays are asked for.
        names: of the arrays that there have to be.
        of_part: whether there may be others.

    Raises:
        ValueError: the iterator's state or the record is not what was saved.
        UserError: there are other arrays.
    """
    alone = ocp.options.MultiprocessingOptions(active_processes={jax.process_index()})
    handler = ocp.CompositeCheckpointHandler()
    reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
    said = reader.restore(folder, args=ocp.args.Composite(data=JSON, run=JSON))
    data, about = said["data"], dict(said["run"])
    if about.pop("digest", None) != integrity.digest(data, about):
        raise ValueError("its iterator's state or its record is not what was saved")
    bits = about.pop("bits")
    others = set(names).difference(bits)
    if others := others or (set(bits).difference(names) if not of_part else set()):
        raise UserError(
            f"the checkpoint {folder} has other arrays than this run ({min(others)}): "
            "another version of kdjax or another run wrote it; go on with that one, or "
            "give another --workdir"
        )
    arrays = reader.restore(folder, args=ocp.args.Composite(state=state))["state"]
    return _Content(arrays, data, bits, about)


def _first_whole(
    folders: Sequence[epath.Path],
    read: Callable[[epath.Path], _Content],
    damaged: dict[epath.Path, str],
    say: Say,
    advice: str,
) -> _Content | None:
    """Return the first folder's content that all hosts can read; all must ask.

    Args:
        folders: to be tried in this order; with none there is no content.
        read: reads one, without other hosts.
        damaged: gets those before it, and why they are not it.
        say: is told of them.
        advice: what to do where none can be read.

    Raises:
        UserError: all are damaged.
        Transient: one cannot be read now.
    """
    for folder in folders:
        content, found, words = _look(folder, read)
        # Of a run that goes on, hosts may not have found the same.
        all_found = hosts.each(found)
        if IS_HINDERED in all_found:
            raise Transient(
                f"the checkpoint {folder} cannot be read, and nothing says that it is "
                f"damaged ({words or ELSEWHERE}): mend that, or remove its folder, and "
                "the same command goes on"
            )
        if set(all_found) == {int(folder.name)}:
            assert content is not None
            words = _changed(content)
            if not any(hosts.each(len(words))):
                for other, why in damaged.items():
                    say(
                        f"the checkpoint {other} is damaged ({why}) and not used: "
                        f"going on from {folder.name}"
                    )
                return content
        damaged[folder] = words or ELSEWHERE
    if not folders:
        return None
    raise UserError(
        f"no checkpoint in {folders[0].parent} can be restored (the last that was "
        f"tried: {damaged[folders[-1]]}): {advice}"
    )


def _look(
    folder: epath.Path, read: Callable[[epath.Path], _Content]
) -> tuple[_Content | None, int, str]:
    """Return what is in a checkpoint, what this host finds of it, and why."""
    try:
        return read(folder), int(folder.name), ""
    except (JaxRuntimeError, UserError):  # such as too little memory
        raise
    # What a damaged file makes of Orbax is of many kinds.
    except Exception as error:
        hindrance = integrity.hindrance(folder, error)
        found = IS_HINDERED if hindrance else IS_DAMAGED
        return None, found, integrity.cause(folder, hindrance or error)


def _changed(content: _Content) -> str:
    """Return what to say of an array that is not as it was saved; "" of none."""
    sums = integrity.sums_of_bits(content.state)
    changed = (name for name, bits in sums.items() if content.bits.get(name) != bits)
    name = next(changed, None)
    return f"its array {name} is not what was saved" if name else ""

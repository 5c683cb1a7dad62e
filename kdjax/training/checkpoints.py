"""Checkpoints of the state and the data iterator, by Orbax."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from grain.checkpoint import CheckpointRestore, CheckpointSave

from kdjax.training.steps import TrainState


class Checkpoints:
    """A run's checkpoints: asynchronous, atomic, the newest `keep` of them kept."""

    def __init__(self, workdir: epath.Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        # Orbax takes absolute paths only.
        directory = (workdir / "checkpoints").resolve()
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, state: TrainState, iterator: Any) -> None:
        """Begin to save; the state may be donated as soon as this returns."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=CheckpointSave(iterator)
        )
        self._manager.save(step, args=args)

    def restore(
        self, state: TrainState, shardings: TrainState, iterator: Any
    ) -> TrainState:
        """Return the newest saved state and set the iterator, or return `state`."""
        step = self._manager.latest_step()
        if step is None:
            return state
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            state,
            shardings,
        )
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=CheckpointRestore(iterator)
        )
        return self._manager.restore(step, args=args)["state"]

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

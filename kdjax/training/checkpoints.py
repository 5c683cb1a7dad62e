"""Checkpoints of the state and the data iterator, by Orbax."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from kdjax.errors import UserError
from kdjax.training.steps import TrainState


class Checkpoints:
    """A run's checkpoints: asynchronous, atomic, the newest `keep` of them kept."""

    def __init__(self, workdir: epath.Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        directory = workdir / "checkpoints"
        # Orbax takes absolute paths only; those of buckets are, and would be broken.
        self._directory = directory if "://" in str(workdir) else directory.resolve()
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(self, state: TrainState, iterator: Any) -> None:
        """Begin to save; the state may be donated as soon as this returns."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # All hosts have the same; Grain's own handler is for so many hosts as saved.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(iterator.get_state()),
        )
        self._manager.save(step, args=args)

    def restore(
        self, state: TrainState, shardings: TrainState, iterator: Any
    ) -> TrainState:
        """Return the newest saved state and set the iterator, or return `state`.

        Raises:
            UserError: it is damaged, or of another model.
        """
        step = self._manager.latest_step()
        if step is None:
            return state
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            state,
            shardings,
        )
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
            iterator.set_state(restored["data"])
            return restored["state"]
        # What a damaged file makes of Orbax is of many kinds.
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"the checkpoint {self._directory / str(step)} cannot be restored "
                f"({said}): remove it, and the run goes on from the one before"
            ) from error

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

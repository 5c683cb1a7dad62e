"""A trace of what host and devices do in some steps, by JAX's profiler."""

from collections.abc import Sequence

import jax
from etils import epath

from kdjax import hosts


class Trace:
    """Writes a trace of the first host's steps from one to another, both included.

    All hosts know which these are. A run that is resumed between them traces the rest.
    """

    def __init__(self, folder: epath.Path, steps: Sequence[int]) -> None:
        """Trace into `folder`, a local one; no `steps` for no trace."""
        self._folder = folder
        self._steps = range(steps[0], steps[1] + 1) if steps else range(0)
        self._running = False

    def before(self, step: int) -> None:
        """Begin if it is time."""
        if step in self._steps and hosts.is_first() and not self._running:
            options = jax.profiler.ProfileOptions()
            # It walks Python's threads while a checkpoint's come and go, and crashes.
            options.python_tracer_level = 0
            jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._running = True

    def ends_with(self, step: int) -> bool:
        """Return whether a step is the last one, on all hosts or on none."""
        return step in self._steps[-1:]

    def after(self, step: int) -> None:
        """End if the last step is over."""
        if self.ends_with(step):
            self.close()

    def close(self) -> None:
        """Write what there is."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

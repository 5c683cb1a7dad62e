"""A run's numbers as TensorBoard reads them."""

import math
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from etils import epath

from kdjax.training.aside import Aside

# TensorBoard sees what is older than so many seconds, as with TensorFlow's own writer.
LATE = 120.0


class Events:
    """Writes TensorBoard's events in a thread; what fails there a later call raises.

    What was written is on disk after `flush`. From tensorboardX comes the format alone:
    the thread of its own writer dies on a full disk, and then the numbers of the next
    steps wait for it for ever.
    """

    def __init__(self, folder: epath.Path, resumed_step: int) -> None:
        """Begin a file; of those before, what is later than that step is hidden."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter, directory_check

        directory_check(str(folder))
        # TensorBoard reads the files of a folder by their names' order.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        self._records = RecordWriter(str(folder / name))
        self._aside = Aside()
        self._due = 0.0
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        log = SessionLog(status=SessionLog.START)
        start = Event(wall_time=time.time(), step=resumed_step + 1, session_log=log)
        self._aside.begin(self._append, version, start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one step's numbers; those that are not finite are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        finite = {name: x for name, x in values.items() if math.isfinite(x)}
        shown = [Summary.Value(tag=name, simple_value=x) for name, x in finite.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=shown))
        self._aside.begin(self._append, event)

    def flush(self) -> None:
        """Put what was written on disk."""
        self._aside.begin(self._records.flush)
        self._aside.wait()

    def close(self) -> None:
        """Put what was written on disk, and end the file."""
        with closing(self._records), closing(self._aside):
            self.flush()

    def _append(self, *events: Any) -> None:
        for event in events:
            self._records.write(event.SerializeToString())
        if time.monotonic() >= self._due:
            self._records.flush()
            self._due = time.monotonic() + LATE

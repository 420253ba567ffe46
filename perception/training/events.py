"""TensorBoard's events of a run.

Written here and at once: PyTorch's SummaryWriter hands them to a thread, which a full disk ends for good and which
leaves a cut-off record behind, where TensorBoard stops reading.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from perception.errors import reason

log = logging.getLogger(__name__)

_FILES = count()  # of this process, as TensorBoard's own writer numbers them


class Events:
    """A file of scalars. A disk that is full costs a warning, never the run: what it refuses is written later.

    Args:
        folder: for `tensorboard --logdir`; what older files in it say of steps after `step` is void.
    """

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_FILES)}"
        self._path, self._size, self._is_failing = folder / name, 0, False
        first = Event(wall_time=time.time(), step=step + 1, file_version="brain.Event:2")
        start = Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._waiting = [first, start]
        self._write()

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Values of one step, by tag."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._waiting.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._write()

    def flush(self) -> None:
        """Write what waits, if anything does."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        try:
            self._size = _appended(self._path, self._size, self._waiting)
        except OSError as error:
            if not self._is_failing:  # once, until it could be written again
                log.warning("%s: TensorBoard's events can't be written: %s", self._path.parent, reason(error))
            self._is_failing = True
            return
        self._is_failing = False
        self._waiting = []


def _appended(path: Path, size: int, events: Iterable[Event]) -> int:
    """Write events behind the first `size` bytes of a file, which are whole; its new size. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        f.truncate(size)
        writer = RecordWriter(f)
        for event in events:
            writer.write(event.SerializeToString())
        f.flush()
        return f.tell()

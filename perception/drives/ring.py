"""Recording only what matters: the last seconds stay in memory, and a trigger saves them with those that follow."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from perception.drives.block import Block, FrameCount
from perception.drives.layout import Certificate
from perception.drives.segments import RecordingWriter

log = logging.getLogger(__name__)

_AT_ONCE = 3  # blocks of the past that are written for each one that comes
_FULL = "the memory of the ring was full"


class Ring:
    """The newest blocks, of at least `seconds` and at most `limit` bytes, beginning with a state where one is there."""

    def __init__(self, seconds: float, limit: int) -> None:
        self._window_ns, self._limit = round(seconds * 1e9), limit
        self._blocks: deque[Block] = deque()
        self.size = 0

    def add(self, block: Block) -> None:
        self._blocks.append(block)
        self.size += block.size
        while self.size > self._limit and len(self._blocks) > 1:
            self._drop(self._second_state() or 1)
        begin_ns = block.log_ns - self._window_ns
        while (count := self._second_state()) and self._blocks[count].log_ns <= begin_ns:
            self._drop(count)
        while not self._blocks[0].has_state and self._blocks[0].log_ns < begin_ns:
            self._drop(1)

    def blocks(self) -> list[Block]:
        """Oldest first."""
        return list(self._blocks)

    def _second_state(self) -> int:
        """Where the next block after the first is that a replay can begin with; 0 where there is none."""
        return next((i for i, block in enumerate(islice(self._blocks, 1, None), 1) if block.has_state), 0)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self.size -= self._blocks.popleft().size


class RingWriter:
    """Takes blocks as RecordingWriter does, but writes them only around triggers, to `trigger-0001-REASON` and so on.

    Args:
        folder: where the folders of the triggers are made.
        make: gives the writer of a new recording in a folder.
        seconds, limit: of the ring; the limit is in bytes.
        after_s: how much after the last trigger is saved too [s of the recording].

    Attributes:
        stopped: why nothing could be written the last time; "" where it could.
        wants_state: always False: the ring lives on the states that come every few seconds.
    """

    wants_state = False

    def __init__(
        self, folder: Path, make: Callable[[Path], RecordingWriter], seconds: float, limit: int, after_s: float
    ) -> None:
        self._folder, self._make, self._after_ns = folder, make, round(after_s * 1e9)
        self._ring, self._limit = Ring(seconds, limit), limit
        self._saving: RecordingWriter | None = None
        self._backlog: deque[Block] = deque()
        self._backlog_size = 0
        self._newest_ns: int | None = None  # log time; None before the first block
        self._until_ns: int | None = None  # what is saved ends there; None: to be counted from the first block
        self._reasons: list[str] = []
        self._count = 0
        self._size = self._frames = 0
        self.stopped = ""
        self._lost: dict[str, int] = {}
        self._missing = FrameCount()  # of the recording in work

    @property
    def size(self) -> int:
        """Of all that is written [bytes]."""
        return self._size + (self._saving.size if self._saving else 0)

    @property
    def frames(self) -> int:
        return self._frames + (self._saving.frames if self._saving else 0)

    @property
    def lost(self) -> dict[str, int]:
        """Of the recording in work, or of the last one."""
        return self._saving.lost if self._saving else self._lost

    @property
    def is_busy(self) -> bool:
        """There is more to write, without waiting for anything."""
        return bool(self._backlog)

    def trigger(self, reason: str) -> None:
        """Save the ring, and what comes in the next seconds; while that goes on, go on for longer."""
        self._until_ns = None if self._newest_ns is None else self._newest_ns + self._after_ns
        self._reasons.append(reason)
        if self._saving:
            return
        slug = re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")[:40] or "asked"
        self._count += 1
        while any(self._folder.glob(f"trigger-{self._count:04d}-*")):
            self._count += 1
        folder = self._folder / f"trigger-{self._count:04d}-{slug}"
        self._saving, self._missing = self._make(folder), FrameCount()
        log.info("saving the last seconds to %s: %s", folder, reason)
        for block in self._ring.blocks():
            self._queue(block)

    def write(self, block: Block) -> None:
        if block.records:
            self._newest_ns = block.log_ns if self._newest_ns is None else max(self._newest_ns, block.log_ns)
        if self._until_ns is None and self._newest_ns is not None:
            self._until_ns = self._newest_ns + self._after_ns
        self._ring.add(block)
        if self._saving and not self._is_over(block.log_ns):
            self._queue(block)
        self.work()

    def work(self) -> None:
        """Write a few of the blocks that wait."""
        for _ in range(_AT_ONCE):
            if not self._saving or not self._backlog:
                break
            block = self._backlog.popleft()
            self._backlog_size -= block.size
            self._saving.write(block)
            self.stopped = self._saving.stopped
        if self._saving and not self._backlog and self._newest_ns is not None and self._is_over(self._newest_ns):
            self._finish()

    def close(self, reason: str) -> Certificate | None:
        """Write what is to be saved; the certificate of the recording in work, None where there is none."""
        while self._saving and self._backlog:
            self.work()
        return self._finish() if self._saving else None

    def _is_over(self, log_ns: int) -> bool:
        """This is after what is to be saved."""
        return self._until_ns is not None and log_ns > self._until_ns

    def _queue(self, block: Block) -> None:
        if self._backlog_size + block.size > 2 * self._limit:
            block = Block(expected=block.expected, captured=block.captured, decided=block.decided)
            block.lost[_FULL] = self._missing.add(block)
        self._backlog.append(block)
        self._backlog_size += block.size

    def _finish(self) -> Certificate | None:
        assert self._saving is not None
        certificate = self._saving.close(", ".join(self._reasons))
        self.stopped, self._lost = self._saving.stopped, self._saving.lost
        self._size, self._frames = self.size, self.frames
        self._saving = None
        self._reasons.clear()
        return certificate

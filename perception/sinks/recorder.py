"""Records a run beside it: any thread tells what happens, one thread writes, and nobody waits for the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perception.drives.block import Block
from perception.drives.disk import DiskGuard, WhenFull, tell_leftovers
from perception.drives.layout import About, Certificate, ControlCall, Decision, StateRow
from perception.drives.ring import RingWriter
from perception.drives.segments import RecordingWriter, SegmentLimits
from perception.sinks.assembly import Assembler
from perception.sinks.record_queue import Asked, Captured, Item, Noted, RecordQueue, Sent
from perception.types import Frame

log = logging.getLogger(__name__)

STATE_EVERY_NS = 5_000_000_000
TICK_S = 1.0
CLOSE_S = 30.0
_MOST_ITEMS = 20_000


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """How a run is recorded."""

    frames: Literal["jpeg", "png", "raw", "none"] = "jpeg"
    quality: int = 90  # of a JPEG
    masks: bool = True  # masks and boxes also as messages that other tools show
    segment_s: float = 60.0
    segment_bytes: int = 1 << 30
    ring_s: float = 0.0  # keep so much in memory, written only around triggers; 0: write everything
    ring_bytes: int = 512 << 20
    after_s: float = 10.0  # what a trigger saves of the time after it
    when_full: WhenFull = "stop"
    least_free_bytes: int = 5_000_000_000  # of the disk, or a tenth of it where that is less
    waits: bool = False  # wait for the disk rather than lose anything: for replays
    queue_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """How a recording is."""

    stopped: str  # why nothing is written now, "" while it is
    size: int  # written [bytes]
    frames: int  # written
    lost: dict[str, int]  # frames, or other messages, by reason
    queued: int  # items that wait


class Recorder:
    """Writes a recording of one camera's run into a folder of its own. Every method may be called from any thread, and
    none waits for the disk, except `close`, and all of them with `settings.waits`.

    With `settings.ring_s` the folder gets a recording for each trigger, `trigger-0001-REASON` and so on, and nothing
    else.

    Raises:
        RecordingError: there is a recording in the folder already.
        ConfigError: the calibration in `about` is none.
    """

    def __init__(self, folder: Path, about: About, settings: RecordSettings | None = None) -> None:
        self.folder, self._about = folder, about
        self._settings = settings = settings or RecordSettings()
        self.certificate: Certificate | None = None
        self._queue = RecordQueue(settings.queue_bytes, _MOST_ITEMS, settings.waits)
        self._assembler = Assembler(about, settings.frames, settings.quality)
        self._ring: RingWriter | None = None
        if settings.ring_s:
            limits = (settings.ring_s, settings.ring_bytes, settings.after_s)
            self._ring = RingWriter(folder, self._make_writer, *limits)
        self._writer = self._ring or self._make_writer(folder)
        self._newest_ns: int | None = None  # stamp of the last frame
        self._segment_ns = 0  # of the first one of the segment
        self._state_ns: int | None = None  # stamp of the frame before the last state
        self._state_waits = False
        self._reason, self._broke = "", ""
        self._wrote = False  # since the last tick
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def captured(self, frame: Frame, arrived_ns: int, encoded: bytes = b"") -> None:
        """A frame is there since `arrived_ns` (monotonic); `encoded` is its image as `settings.frames` wants it, where
        it is known already."""
        self._queue.put(Captured(frame, arrived_ns, encoded))

    def sent(self, messages: Sequence[tuple[str, bytes]], publish_ns: int) -> None:
        """Messages (topic, wire bytes) were published at `publish_ns` of the wall clock, or of the drive."""
        self._queue.put(Sent(messages, publish_ns))

    def decided(self, decision: Decision) -> None:
        """What became of a captured frame; after its messages were sent."""
        if self._newest_ns is None:  # a state that was told before is that of the first frame
            self._segment_ns = decision.stamp_ns
            self._state_ns = None if self._state_ns is None else decision.stamp_ns
        self._newest_ns = decision.stamp_ns
        self._queue.put(Noted(decision))

    def called(self, call: ControlCall) -> None:
        """A control request was answered."""
        self._queue.put(Noted(call))

    def wants_state(self) -> bool:
        """A state should come before the next frame: five seconds have passed, or a new segment begins with it."""
        if self._state_ns is None or (self._writer.wants_state and not self._state_waits):
            return True
        segment_ns = round(self._settings.segment_s * 1e9)
        is_due = not self._ring and self._since_ns(self._segment_ns) >= segment_ns
        return is_due or self._since_ns(self._state_ns) >= STATE_EVERY_NS

    def state(self, row: StateRow | Callable[[], StateRow]) -> None:
        """The node's state between two frames, or what makes it when this class's thread calls it."""
        self._state_ns, self._state_waits = self._newest_ns or 0, True
        if self._since_ns(self._segment_ns) >= round(self._settings.segment_s * 1e9):
            self._segment_ns = self._state_ns
        if not self._queue.put(Noted(row)):
            self._state_waits = False

    def trigger(self, reason: str) -> None:
        """Save the ring; without one this does nothing, as everything is kept."""
        if self._ring:
            self._queue.put(Asked(reason))

    def stats(self) -> RecorderStats:
        writer = self._writer
        return RecorderStats(self._broke or writer.stopped, writer.size, writer.frames, writer.lost, len(self._queue))

    @property
    def has_lost(self) -> bool:
        """Closed, it lacks something that it was told; a ring that nothing triggered lacks nothing."""
        if self.certificate:
            return not self.certificate.is_complete
        return not self._ring or bool(self.stats().stopped)

    def close(self, reason: str = "closed") -> None:
        """Write what waits, finish the recording and let it go; after half a minute give up. Twice is fine."""
        self._reason = self._reason or reason
        self._queue.close()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.error("recording %s is not complete: its disk does not answer", self.folder)

    def _since_ns(self, stamp_ns: int) -> int:
        """From a stamp to the last frame, however a drive jumps; 0 before the first one."""
        return 0 if self._newest_ns is None else abs(self._newest_ns - stamp_ns)

    def _make_writer(self, folder: Path) -> RecordingWriter:
        told = self._settings
        guard = DiskGuard(self.folder.parent, told.when_full, told.least_free_bytes)
        limits = SegmentLimits(told.segment_s, told.segment_bytes)
        return RecordingWriter(folder, self._about, guard, limits, told.masks)

    def _work(self) -> None:
        try:
            tell_leftovers(self.folder.parent)
            self._record()
            self.certificate = self._writer.close(self._reason)
        except Exception:  # a node goes on without its recording
            log.exception("recording %s broke off", self.folder)
            self._broke = "it broke off; the log says why"
            self._queue.close()

    def _record(self) -> None:
        """Until the queue is closed and empty."""
        ticked_s = time.monotonic()
        while True:
            item = self._queue.take(0 if self._ring and self._ring.is_busy else TICK_S)
            if item is None and self._queue.is_drained:
                break
            if item is not None:
                self._take(item)
            elif self._ring:
                self._ring.work()
            if time.monotonic() - ticked_s >= TICK_S:
                if not self._wrote:
                    self._write(self._assembler.flush())
                ticked_s, self._wrote = time.monotonic(), False
        self._note_missed()
        self._write(self._assembler.finish())

    def _take(self, item: Item) -> None:
        self._note_missed()
        if isinstance(item, Captured):
            self._write(self._assembler.captured(item))
        elif isinstance(item, Sent):
            self._assembler.sent(item)
        elif isinstance(item, Noted):
            self._write(self._assembler.noted(item))
            if not isinstance(item.row, Decision | ControlCall):
                self._state_waits = self._assembler.holds_state
        elif self._ring:
            self._ring.trigger(item.reason)

    def _note_missed(self) -> None:
        if dropped := self._queue.take_dropped():
            self._assembler.missed(dropped)

    def _write(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            self._writer.write(block)
            self._wrote = True
            self._state_waits = self._state_waits and not block.has_state

"""A recording on its way to the disk: a folder of segments that outlives full disks and crashes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perception.drives.block import Block, FrameCount
from perception.drives.disk import DiskGuard
from perception.drives.foxglove import Place, calibration_record, picture_of, picture_topic
from perception.drives.layout import ACTIVE, SUFFIX, About, Certificate, Channel, Record, Tally
from perception.drives.schemas import SCHEMAS, schema_of
from perception.drives.segment import SegmentWriter
from perception.drives.syncing import FULL, Syncer
from perception.errors import RecordingError, WireError
from perception.geometry import parse_camera

log = logging.getLogger(__name__)

RETRY_S = 5.0
_STATE_WAIT_NS = 2_000_000_000  # how long a new segment waits for a state to begin with
_QUIET_S = 60.0  # the same failure is not told again sooner
_UNREADABLE = "a mask that can't be decoded"


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When a new segment begins: at the first frame beyond one of these."""

    seconds: float = 60.0  # of the recording; may be infinite
    size: int = 1 << 30  # [bytes]


@dataclass(slots=True, eq=False)
class _Written:
    """What one segment holds."""

    segment: SegmentWriter
    messages: Counter[str] = field(default_factory=Counter)
    frames: FrameCount = field(default_factory=FrameCount)
    is_calibrated: bool = False
    unsure: Counter[str] = field(default_factory=Counter)  # messages that the disk may not have yet

    def confirm(self, block: Block) -> None:
        """The disk has it."""
        self.messages.update(self.unsure)
        self.frames.add(block)
        self.unsure.clear()


class RecordingWriter:
    """Writes blocks to `0000.mcap`, `0001.mcap`, ... in a folder. A disk that fails stops it, and never raises: the
    reason is logged once, what comes meanwhile is counted as lost, and every 5 s it tries to go on.

    Args:
        folder: of this recording alone; made where it is not there.
        about: what it says of itself; the segment's number and beginning are filled in.
        masks: write masks and boxes also as messages that other tools show.
        guard: says when the disk is too full.

    Attributes:
        stopped: why nothing is written now; "" while it is.
        wants_state: a new segment is due, and it should begin with the node's state.

    Raises:
        RecordingError: there is a recording in the folder already.
        ConfigError: the calibration in `about` is none.
    """

    def __init__(
        self,
        folder: Path,
        about: About,
        guard: DiskGuard,
        limits: SegmentLimits | None = None,
        masks: bool = True,
    ) -> None:
        if folder.is_dir() and any(p.name.endswith((SUFFIX, ACTIVE)) for p in folder.iterdir()):
            raise RecordingError(f"{folder}: there is a recording in it already: give another folder")
        self.folder, self._about, self._guard = folder, about, guard
        self._limits, self._masks = limits or SegmentLimits(), masks
        self._calibration = parse_camera(about.calibration, "calibration") if about.calibration else None
        self._syncer = Syncer(guard)
        self.stopped, self.wants_state = "", True
        self._segments: list[_Written] = []
        self._open: _Written | None = None
        self._began_ns: int | None = None  # log time of the open segment's first record
        self._retry_s = self._told_s = 0.0
        self._told = ""
        self._unsure = Block()  # the one that the disk may not have yet
        self._expected: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._missing = FrameCount()
        self._decided: Counter[str] = Counter()
        self._captured = 0
        self._pictures: dict[str, str] = {}  # topic of the picture by that of the message
        for name in SCHEMAS:
            schema_of(name)  # its package takes a while to import: now, not while frames come
        self._go_on()

    @property
    def size(self) -> int:
        """Of all that is written [bytes]."""
        return sum(written.segment.size for written in self._segments)

    @property
    def frames(self) -> int:
        return sum((written.frames for written in self._segments), FrameCount()).frames

    @property
    def lost(self) -> dict[str, int]:
        """Frames, or other messages, that are missing, by reason."""
        return dict(+self._lost)

    def write(self, block: Block) -> None:
        """Write what belongs together as one chunk, which a killed process does not lose."""
        self._expected.update(block.expected)
        self._lost.update(block.lost)
        self._decided.update(block.decided)
        self._captured += block.captured
        if not self.stopped and (trouble := self._syncer.trouble()):
            self._stop(trouble)
        self._rotate(block)
        if self.stopped and time.monotonic() >= self._retry_s:
            self._go_on()
        if self.stopped or self._open is None:
            self._lose(block)
            return
        if self._began_ns is None and block.records:
            self._began_ns = block.log_ns
        self.wants_state = self.wants_state and not block.has_state
        self._unsure = block
        for record in self._with_pictures(block):
            channel = Channel(record.topic, record.schema, record.encoding)
            self._open.segment.write(channel, record.data, record.log_ns, record.publish_ns, record.sequence)
            self._open.unsure[record.topic] += 1
        try:
            self._open.segment.flush()
        except OSError as error:
            self._fail(error)
        else:
            self._open.confirm(block)

    def close(self, reason: str) -> Certificate | None:
        """Finish the recording; its certificate, None where none could be written."""
        if self.stopped:
            self._go_on(last=True)
        self._syncer.close()
        certificate = self._certify(reason)
        if self._open:
            try:
                self._open.segment.close(certificate)
                return certificate
            except OSError as error:
                self._fail(error)
                self._open.segment.abandon()
        log.error("recording %s is not complete: %s", self.folder, self.stopped)
        return None

    def _with_pictures(self, block: Block) -> Iterable[Record]:
        """The records of a block with what other tools can show of them."""
        if self._calibration and self._open and not self._open.is_calibrated and block.decided:
            self._open.is_calibrated = True
            lens = self._calibration.scaled(*block.frame_size) if block.frame_size else self._calibration
            record = calibration_record(self._about.camera, lens, Place(block.log_ns, block.log_ns, 0))
            self._expected[record.topic] += 1
            yield record
        for record in block.records:
            yield record
            if not self._masks or record.encoding != "perception":
                continue
            try:
                if record.topic not in self._pictures:
                    self._pictures[record.topic] = picture_topic(record)
                if self._pictures[record.topic] and (picture := picture_of(record)):
                    yield picture
            except WireError:
                self._lost[_UNREADABLE] += 1

    def _rotate(self, block: Block) -> None:
        """Begin a new segment where it is time, if possible with a block that holds a state."""
        if self._open is None or self.stopped or self._began_ns is None or not block.records:
            return
        over_ns = abs(block.log_ns - self._began_ns) - self._limits.seconds * 1e9
        size = self._open.segment.size
        if over_ns < 0 and size < self._limits.size:
            return
        self.wants_state = True
        if block.has_state or over_ns >= _STATE_WAIT_NS or size >= self._limits.size * 1.05:
            self._begin()

    def _begin(self) -> None:
        """Open the next segment, and have the one before closed; on failure, stop."""
        number = len(self._segments)
        about = msgspec.structs.replace(self._about, segment=number, began_ns=time.time_ns())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            segment = SegmentWriter(self.folder / f"{number:04d}{SUFFIX}", about)
        except OSError as error:
            self._fail(error)
            return
        self._syncer.watch(segment, is_whole=not (self._open and self._open.unsure))
        self._open = _Written(segment)
        self._segments.append(self._open)
        self._began_ns = None
        self.wants_state = True

    def _go_on(self, last: bool = False) -> None:
        """Write what a failure left, then begin a new segment; where that fails, it stays stopped."""
        before, lost = self.stopped, self._missing.frames
        if self._open and self._open.unsure:
            try:
                self._open.segment.flush()
                self._open.confirm(self._unsure)
            except OSError as error:
                self._fail(error)
                if error.errno in FULL and not last:
                    return
                self._lose(self._unsure)
        if refusal := self._guard.refusal():
            self._stop(refusal)
            return
        self.stopped = ""
        self._begin()
        if before and not self.stopped and self._open:
            log.warning("recording goes on in %s; %d frames are lost", self._open.segment.path, lost)

    def _fail(self, error: OSError) -> None:
        self._stop(error.strerror or str(error))

    def _stop(self, reason: str) -> None:
        now = time.monotonic()
        if not self.stopped and (reason != self._told or now - self._told_s > _QUIET_S):
            self._told, self._told_s = reason, now
            log.error("recording to %s stopped: %s; trying again every %.0f s", self.folder, reason, RETRY_S)
        self.stopped, self._retry_s = reason, now + RETRY_S
        self.wants_state = False  # a state costs the node time, and would be lost

    def _lose(self, block: Block) -> None:
        self._lost[self.stopped] += self._missing.add(block)

    def _certify(self, reason: str) -> Certificate:
        there = [w for w in self._segments if w.segment.path.exists() or w is self._open or w.segment.active.exists()]
        for gone in self._segments:
            if gone not in there:
                self._lost["their segment vanished"] += gone.frames.frames
        written: Counter[str] = sum((w.messages for w in there), Counter())
        expected = self._expected + Counter({p: self._expected[m] for m, p in self._pictures.items() if p})
        return Certificate(
            reason=reason,
            ended_ns=time.time_ns(),
            segments=len(there),
            channels={topic: Tally(expected[topic], written[topic]) for topic in sorted(expected | written)},
            captured=max(self._captured, self._decided.total()),
            stepped=self._decided["stepped"],
            dropped=self._decided["dropped"],
            lost=self.lost,
        )

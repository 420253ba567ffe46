"""A drive of ours, opened to be followed: its frames, what was decided about them, and where one may begin."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from perception.config import Launch, PublishConfig
from perception.drives import layout
from perception.drives.frames import StoredFrame, stored_frames
from perception.drives.layout import ACTIVE, SUFFIX, About, ControlCall, Decision, Record, StateRow
from perception.drives.recording import Recording, open_recording
from perception.errors import RecordingError, reason
from perception.replay.result import compared_topics
from perception.whole_file import write

_decisions = msgspec.json.Decoder(Decision).decode
_calls = msgspec.msgpack.Decoder(ControlCall).decode
_states = msgspec.msgpack.Decoder(StateRow).decode
T = TypeVar("T")
FIRST = 64  # decisions among which the first frame's is
SPANS_NS = (15_000_000_000, 60_000_000_000)  # how far back to look for a state first [ns]


class RecordedDrive:
    """What is needed of a recording to go through it again; read as it is asked for.

    Attributes:
        first_ns, last_ns: stamps of the first frame, and of the last message or frame [ns].

    Raises:
        RecordingError: it is not ours, holds no frame, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.recording: Recording = open_recording(path)
        if self.recording.about is None:
            raise RecordingError(f"{path}: not a recording of perception's: it is a source of frames, no more")
        self.about: About = self.recording.about
        camera, channels = self.about.camera, self.recording.channels
        self._frames_topic = next((t for t in (layout.decisions(camera), layout.image(camera)) if t in channels), "")
        begin = self.recording.messages({self._frames_topic}) if self._frames_topic else ()
        # a frame that was dropped at once is decided about before an earlier one that took its time
        first_ns = min((record.log_ns for record in islice(begin, FIRST)), default=None)
        if first_ns is None:
            raise RecordingError(f"{path}: no frame was decided about: there is nothing to follow")
        self.first_ns = first_ns - self.about.wall_offset_ns
        self.last_ns = (self.recording.end_ns or first_ns) - self.about.wall_offset_ns

    def decisions_between(self, begin_ns: int, end_ns: int) -> list[Decision]:
        """What was decided about the frames captured in this time, in the order of capture."""
        records = self._rows(self._frames_topic, begin_ns, end_ns)
        if self._frames_topic == layout.image(self.about.camera):
            return [self._taken(record) for record in records]
        return sorted((self._read(_decisions, record) for record in records), key=lambda d: d.frame_seq)

    def calls_between(self, begin_ns: int, end_ns: int) -> dict[int, list[ControlCall]]:
        """Requests that were answered after frames of this time, by the frame's seq."""
        calls: dict[int, list[ControlCall]] = {}
        for record in self._rows(layout.control(self.about.camera), begin_ns, end_ns):
            call = self._read(_calls, record)
            calls.setdefault(call.frame_seq, []).append(call)
        return calls

    def messages_between(self, begin_ns: int, end_ns: int) -> Iterator[Record]:
        """The messages about frames of this time that another run can be compared with."""
        offset = self.about.wall_offset_ns
        return self.recording.messages(compared_topics(self.recording), begin_ns + offset, end_ns + offset)

    def recorded_launch(self) -> Launch:
        """The whole configuration that it was recorded with, on the machine of then. Raises RecordingError."""
        try:
            return msgspec.json.decode(self.about.launch, type=Launch)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            where = self.recording.path
            raise RecordingError(f"{where}: its launch configuration can't be read: {error}") from None

    def launch(self, folder: Path) -> Launch:
        """How it was recorded, as far as that decides what is said; its calibration is written into `folder`.

        Raises:
            RecordingError: it can't be read, or the calibration can't be written.
        """
        then = self.recorded_launch()
        return Launch(
            version=1,
            camera=then.camera,
            calibration=str(self._write_calibration(folder) or ""),
            topics=then.topics,
            groups=then.groups,
            model=then.model,
            tracking=then.tracking,
            publish=PublishConfig(encoding=then.publish.encoding),  # nothing is bound: keys need not be there
        )

    def _write_calibration(self, folder: Path) -> Path | None:
        text = self.about.calibration.encode()
        if not text:
            return None
        path = folder / f"{hashlib.sha256(text).hexdigest()[:16]}.toml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(path, text)
        except OSError as error:
            raise RecordingError(f"{error.filename or path}: {reason(error)}") from None
        return path

    def first_from(self, begin_s: float) -> Decision:
        """The first captured frame at or after so many seconds of the drive.

        Raises:
            RecordingError: there is none.
        """
        begin_ns = self.first_ns + round(begin_s * 1e9)
        for span_ns in (*SPANS_NS, self.last_ns - begin_ns):
            if found := self.decisions_between(begin_ns, begin_ns + span_ns + 1):
                return found[0]
        length_s = (self.last_ns - self.first_ns) / 1e9
        raise RecordingError(f"{self.recording.path}: it is {length_s:.1f} s long: nothing is there at {begin_s:g} s")

    def state_before(self, first: Decision) -> StateRow | None:
        """The newest state that was kept before this frame; None where there is none."""
        topic, end_ns = layout.state(self.about.camera), first.stamp_ns + self.about.wall_offset_ns + 1
        if topic not in self.recording.channels:
            return None
        for span_ns in (*SPANS_NS, end_ns):  # states are large: look at few of them
            records = list(self.recording.messages({topic}, max(0, end_ns - span_ns), end_ns))
            for record in reversed(records):
                row = self._read(_states, record)
                if row.frame_seq < first.frame_seq:
                    return row
        return None

    def frames(self, seqs: set[int], begin_ns: int, end_ns: int) -> Iterator[StoredFrame]:
        """The images of these frames of this time that were recorded."""
        return stored_frames(self.recording, seqs.__contains__, begin_ns, end_ns)

    def _taken(self, record: Record) -> Decision:
        """For a recording of images alone, which no node made: all of them are to be stepped."""
        stamp_ns = record.log_ns - self.about.wall_offset_ns
        return Decision(record.sequence, stamp_ns, "stepped", arrived_ns=stamp_ns)

    def _rows(self, topic: str, begin_ns: int, end_ns: int) -> Iterator[Record]:
        if topic not in self.recording.channels:
            return iter(())
        offset = self.about.wall_offset_ns
        return self.recording.messages({topic}, begin_ns + offset, end_ns + offset)

    def _read(self, decode: Callable[[bytes], T], record: Record) -> T:
        try:
            return decode(record.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise RecordingError(f"{self.recording.path}: {record.topic}: a row that can't be read: {error}") from None


def is_recording(path: Path) -> bool:
    """Whether perception recorded what lies at this path. Raises RecordingError for an MCAP file that can't be read."""
    is_folder = path.is_dir() and not (path / "metadata.yaml").exists() and any(path.glob("*.mcap*"))
    if not is_folder and not (path.is_file() and path.name.endswith((SUFFIX, ACTIVE))):
        return False
    with contextlib.closing(open_recording(path)) as recording:
        return recording.about is not None

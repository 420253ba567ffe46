"""A drive of ours, opened to be followed: its frames, what was decided about them, and where one may begin."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from perception.config import Launch
from perception.drives import layout
from perception.drives.frames import StoredFrame, stored_frames
from perception.drives.layout import ACTIVE, SUFFIX, About, ControlCall, Decision, Record, StateRow
from perception.drives.recording import Recording, open_recording
from perception.errors import RecordingError

_decisions = msgspec.json.Decoder(Decision).decode
_calls = msgspec.msgpack.Decoder(ControlCall).decode
_states = msgspec.msgpack.Decoder(StateRow).decode
T = TypeVar("T")
SPANS_NS = (15_000_000_000, 60_000_000_000)  # how far back to look for a state first [ns]


class RecordedDrive:
    """What is needed of a recording to go through it again.

    Attributes:
        decisions: one a captured frame, in the order of capture.
        calls: requests that were answered after a frame, by its seq.

    Raises:
        RecordingError: it is not ours, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.recording: Recording = open_recording(path)
        if self.recording.about is None:
            raise RecordingError(f"{path}: not a recording of perception's: it is a source of frames, no more")
        self.about: About = self.recording.about
        camera = self.about.camera
        found = [self._read(_decisions, record) for record in self._rows(layout.decisions(camera))]
        found = found or [self._taken(record) for record in self._rows(layout.image(camera))]
        self.decisions: tuple[Decision, ...] = tuple(sorted(found, key=lambda d: d.frame_seq))
        self.calls: dict[int, list[ControlCall]] = {}
        for record in self._rows(layout.control(camera)):
            call = self._read(_calls, record)
            self.calls.setdefault(call.frame_seq, []).append(call)

    def launch(self) -> Launch:
        """The configuration that it was recorded with."""
        try:
            return msgspec.json.decode(self.about.launch, type=Launch)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RecordingError(f"{self.recording.path}: its launch configuration can't be read: {error}") from None

    def first_from(self, begin_s: float) -> Decision:
        """The first captured frame at or after so many seconds of the drive.

        Raises:
            RecordingError: there is none.
        """
        if not self.decisions:
            raise RecordingError(f"{self.recording.path}: no frame was decided about: there is nothing to follow")
        begin_ns = self.decisions[0].stamp_ns + round(begin_s * 1e9)
        place = bisect.bisect_left(self.decisions, begin_ns, key=lambda d: d.stamp_ns)
        if place == len(self.decisions):
            length_s = (self.decisions[-1].stamp_ns - self.decisions[0].stamp_ns) / 1e9
            raise RecordingError(
                f"{self.recording.path}: it is {length_s:.1f} s long: nothing is there at {begin_s:g} s"
            )
        return self.decisions[place]

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

    def frames(self, seqs: set[int], begin_ns: int | None = None) -> Iterator[StoredFrame]:
        """The images of these frames that were recorded."""
        return stored_frames(self.recording, seqs.__contains__, begin_ns)

    def _taken(self, record: Record) -> Decision:
        """For a recording of images alone, which no node made: all of them are to be stepped."""
        stamp_ns = record.log_ns - self.about.wall_offset_ns
        return Decision(record.sequence, stamp_ns, "stepped", arrived_ns=stamp_ns)

    def _rows(self, topic: str) -> Iterator[Record]:
        return self.recording.messages({topic}) if topic in self.recording.channels else iter(())

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

"""One of our recordings frame by frame: what belongs together, put together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perception.drives import layout
from perception.drives.layout import About, Decision, Record
from perception.drives.recording import Recording, open_recording
from perception.errors import RecordingError, WireError
from perception.wire import Message, decode

WINDOW = 16
"""Frames that are held open: what belongs to a frame is found within so many later ones."""
SEQUENCES = 1 << 32
"""MCAP's sequence numbers wrap there."""
_NOT_SHOWN = frozenset({"image", "health", "events"})
read_decision = msgspec.json.Decoder(Decision).decode


@dataclass(slots=True, eq=False)
class RecordedFrame:
    """What a recording holds of one captured frame."""

    seq: int
    stamp_ns: int  # on the clock of the run [ns]
    image: Record | None = None
    messages: dict[str, Message] = field(default_factory=dict)  # by topic without its camera
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Drive:
    """A recording of ours, or a part of it.

    Attributes:
        begin_ns, end_ns: log times of its first frame, and after its last one [ns].
        frames: how many there may be, for a progress bar.
    """

    path: Path
    recording: Recording
    about: About
    begin_ns: int
    end_ns: int
    frames: int

    @property
    def has_images(self) -> bool:
        return layout.image(self.about.camera) in self.recording.channels

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of its wire topics, without their camera."""
        front = layout.wire(f"{self.about.camera}/")
        return tuple(sorted(t.removeprefix(front) for t in self.recording.channels if t.startswith(front)))


def open_drive(path: Path, begin_s: float = 0.0, end_s: float | None = None) -> Drive:
    """Open a recording of ours, or the part of it between two times since its first frame [s].

    Raises:
        RecordingError: there is none, it is somebody else's, it holds no frame, or the times are none of it.
    """
    if begin_s < 0 or (end_s is not None and not end_s > begin_s):
        raise RecordingError(f"from {begin_s:g} to {end_s or 0:g} s is empty: give an end after the begin")
    recording = open_recording(path)
    about = recording.about
    if about is None:
        raise RecordingError(f"{path}: not a recording of perception's: `perception drive convert` makes one of it")
    topics = {layout.image(about.camera), layout.decisions(about.camera)} & recording.channels.keys()
    front = layout.wire(f"{about.camera}/")
    wire = {t for t in recording.channels if t.startswith(front) and not t.endswith("/health")}
    first = next(recording.messages(topics or wire), None)
    if first is None:
        raise RecordingError(f"{path}: it holds no frame")
    whole_s = max(1, recording.end_ns - first.log_ns) / 1e9
    if begin_s > whole_s:
        raise RecordingError(f"{path}: it is {whole_s:.1f} s long: nothing is left from {begin_s:g} s on")
    begin_ns = first.log_ns + round(begin_s * 1e9)
    end_ns = recording.end_ns + 1 if end_s is None else first.log_ns + round(end_s * 1e9)
    count = max((recording.channels[t].count or 0 for t in topics or wire), default=0)
    part = min(1.0, (end_ns - begin_ns) / 1e9 / whole_s)
    return Drive(path, recording, about, begin_ns, end_ns, max(1, math.ceil(count * part)))


def recorded_frames(drive: Drive, topics: Collection[str] | None = None) -> Iterator[RecordedFrame]:
    """Its frames by rising seq, in bounded memory; those that a replay left out are decided about at its end, and come
    last.

    Args:
        topics: names of the wire topics that are wanted; None: all that say what a frame shows.

    Raises:
        RecordingError: the recording is damaged.
    """
    waiting: dict[int, RecordedFrame] = {}
    for frame_seq, part in _parts(drive, topics):
        frame = waiting.get(frame_seq)
        if frame is None:
            frame = waiting[frame_seq] = RecordedFrame(frame_seq, _stamp_ns(drive, part))
        if isinstance(part, Record):
            frame.image = part
        elif isinstance(part, Decision):
            frame.decision = part
        else:
            frame.messages[part.topic.partition("/")[2]] = part
        if len(waiting) > WINDOW:
            yield waiting.pop(min(waiting))
    for frame_seq in sorted(waiting):
        yield waiting[frame_seq]


def _parts(drive: Drive, topics: Collection[str] | None) -> Iterator[tuple[int, Record | Decision | Message]]:
    camera = drive.about.camera
    names = set(drive.topics) - _NOT_SHOWN if topics is None else topics
    image, decisions = layout.image(camera), layout.decisions(camera)
    wanted = {image, decisions, *(layout.wire(f"{camera}/{name}") for name in names)}
    for record in drive.recording.messages(wanted, drive.begin_ns, drive.end_ns):
        try:
            if record.topic == image:
                yield record.sequence, record
            elif record.topic == decisions:
                decision = read_decision(record.data)
                yield decision.frame_seq % SEQUENCES, decision
            else:
                message = decode(record.data)
                yield message.frame_seq % SEQUENCES, message
        except (WireError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RecordingError(f"{drive.path}: {record.topic}: a message that can't be read: {error}") from None


def _stamp_ns(drive: Drive, part: Record | Decision | Message) -> int:
    return part.log_ns - drive.about.wall_offset_ns if isinstance(part, Record) else part.stamp_ns

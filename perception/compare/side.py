"""One of the two recordings of a comparison: opened, checked, and read frame by frame in bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perception.compare.plain import one_line
from perception.drives.layout import About, Decision, decisions, wire
from perception.drives.recording import Recording, open_recording
from perception.errors import PerceptionError, RecordingError, WireError
from perception.replay.result import Digest
from perception.wire import Health, Message, decode

LIVE = "live"
"""The mode of a recording that can't be made again."""
WINDOW = 64
"""Frames that are held open: what belongs to a frame is found within so many later ones."""
MOST_LATE = 200_000
PRIVATE = frozenset({"image", "health"})
"""Wire topics that are no part of what a drive says: a preview, and figures of the machine."""
Key = Callable[[int, int], int]
_read_decision = msgspec.json.Decoder(Decision).decode


class Incomparable(PerceptionError):
    """Two recordings that can't be held against each other: damaged, foreign, or of different things."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(slots=True)
class Published:
    """What a recording holds of one captured frame."""

    frame_seq: int
    stamp_ns: int
    sent: dict[str, tuple[bytes, Message]] = field(default_factory=dict)  # by topic without its camera
    decision: Decision | None = None


@dataclass(slots=True)
class Side:
    """An opened recording.

    Attributes:
        label: "A" or "B".
        topics: names of the wire topics that it holds, without camera, those of PRIVATE left out.
        digest, digests: over all messages, and by topic, as far as they have been read.
    """

    label: str
    path: Path
    recording: Recording
    about: About
    topics: frozenset[str]
    digest: Digest = field(default_factory=Digest)
    digests: dict[str, Digest] = field(default_factory=dict)
    late: list[Decision] = field(default_factory=list)  # that came when their frames had been passed
    health: list[Health] = field(default_factory=list)  # thinned: see _note_health
    _health_step: int = 1
    _health_count: int = 0

    def frames(self, key: Key) -> Iterator[Published]:
        """All captured frames, by rising key(frame_seq, stamp_ns).

        A replay writes what became of frames that it left out at its end: such decisions go to `late`.
        Raises Incomparable for damage, and where a frame's messages are further apart than WINDOW frames.
        """
        waiting: dict[int, Published] = {}
        order: list[tuple[int, int]] = []
        emitted: tuple[int, int] | None = None
        for frame_seq, stamp_ns, part in self._parts():
            frame = waiting.get(frame_seq)
            if frame is None:
                place = key(frame_seq, stamp_ns)
                if emitted is not None and (place < emitted[0] or frame_seq == emitted[1]):
                    self._note_late(frame_seq, part)
                    continue
                frame = waiting[frame_seq] = Published(frame_seq, stamp_ns)
                heapq.heappush(order, (place, frame_seq))
            if isinstance(part, Decision):
                frame.decision = part
            else:
                frame.sent[part[1].topic.partition("/")[2]] = part
            if len(order) > WINDOW:
                emitted = heapq.heappop(order)
                yield waiting.pop(emitted[1])
        while order:
            yield waiting.pop(heapq.heappop(order)[1])

    def _note_late(self, frame_seq: int, part: Decision | tuple[bytes, Message]) -> None:
        if not isinstance(part, Decision):
            raise Incomparable(
                f"{self.label} ({self.path}): frame {frame_seq} comes more than {WINDOW} frames late, "
                "or its stamps go backwards: match by frame numbers instead (--match frame)"
            )
        if len(self.late) < MOST_LATE:
            self.late.append(part)

    def damaged(self, error: Exception) -> Incomparable:
        text = " ".join(str(error).split())
        return Incomparable(
            f"{self.label}: {text}" if str(self.path) in text else f"{self.label} ({self.path}): {text}"
        )

    def _parts(self) -> Iterator[tuple[int, int, Decision | tuple[bytes, Message]]]:
        camera = self.about.camera
        wanted = {decisions(camera), *(wire(f"{camera}/{name}") for name in (*self.topics, "health"))}
        try:
            for record in self.recording.messages(wanted):
                if record.topic == decisions(camera):
                    decision = _read_decision(record.data)
                    yield decision.frame_seq, decision.stamp_ns, decision
                elif (message := decode(record.data)).topic == f"{camera}/health":
                    self._note_health(message.health())
                else:
                    self._digest(message.topic, record.data)
                    yield message.frame_seq, message.stamp_ns, (record.data, message)
        except (RecordingError, WireError, msgspec.MsgspecError) as error:
            raise self.damaged(error) from None

    def _digest(self, topic: str, data: bytes) -> None:
        for digest in (self.digest, self.digests.setdefault(topic.partition("/")[2], Digest())):
            digest.add([(topic, data)])

    def _note_health(self, health: Health) -> None:
        """Keep every n-th, n doubling, so that an hour takes no more memory than a minute."""
        self._health_count += 1
        if self._health_count % self._health_step == 0:
            self.health.append(health)
        if len(self.health) > 2000:
            self.health = self.health[1::2]
            self._health_step *= 2


def open_side(path: Path, label: str) -> Side:
    """Raises Incomparable for what is no recording of ours, or one without messages."""
    try:
        recording = open_recording(path)
    except RecordingError as error:
        raise Incomparable(f"{label}: {error}") from None
    about = recording.about
    if about is None:
        raise Incomparable(f"{label} ({path}): not a recording of perception: replay it first, and compare the result")
    front = wire(f"{about.camera}/")
    topics = {name.removeprefix(front) for name in recording.channels if name.startswith(front)} - PRIVATE
    if not topics:
        raise Incomparable(f"{label} ({path}): it holds no messages of camera {about.camera!r}, so there is no result")
    if not recording.is_finished and about.mode != LIVE:
        raise Incomparable(f"{label} ({path}): the result is cut short, or still being written: replay the drive again")
    return Side(label, path, recording, about, frozenset(topics))


def check_comparable(a: Side, b: Side) -> frozenset[str]:
    """The topics that both have. Raises Incomparable for another camera, or no topic in common."""
    if a.about.camera != b.about.camera:
        raise Incomparable(
            f"A is of camera {a.about.camera!r} and B of camera {b.about.camera!r}: give two recordings of one camera"
        )
    if common := a.topics & b.topics:
        return common
    raise Incomparable(
        f"no topic in common: A has {', '.join(sorted(a.topics))}; B has {', '.join(sorted(b.topics))}: "
        "replay with the same topics"
    )

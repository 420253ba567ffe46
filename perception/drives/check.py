"""Whether a recording is whole and true: all is read, and what it says of itself is compared with what is there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from perception.drives import layout
from perception.drives.ending import NOT_FINISHED, lacks_end
from perception.drives.layout import About, Decision, Record
from perception.drives.recording import Recording, open_recording
from perception.drives.recover import recovery_of
from perception.drives.schemas import COMPRESSED_IMAGE, RAW_IMAGE, message_type
from perception.errors import WireError
from perception.wire import decode
from perception.wire.pixels import jpeg_size

Progress = Callable[[str, int, int], None]  # what, messages done, of how many
_TOLD = 5  # findings of one kind that are told one by one
_PNG = b"\x89PNG\r\n\x1a\n"
_BACK = "stamps go back"
_EVERY = 100  # messages a progress


@dataclass(slots=True)
class Checked:
    """What a check found.

    Attributes:
        faults: what is damaged, missing or not true, one line each.
        notes: what is worth knowing and no fault.
    """

    path: Path
    messages: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_recording(path: Path, progress: Progress | None = None) -> Checked:
    """Read all of a recording. Of one that perception did not write: checksums and the order of its messages.

    Raises RecordingError where there is no recording at all.
    """
    recording = open_recording(path, lenient=True, thorough=True)
    watch = _Watch(recording)
    total = sum(channel.count or 0 for channel in recording.channels.values())
    for record in recording.messages():
        watch.see(record)
        if progress and watch.count % _EVERY == 0:
            progress(path.name, watch.count, total)
    if progress:
        progress(path.name, total, total)
    return watch.told(path)


class _Watch:
    """Looks at every message once."""

    def __init__(self, recording: Recording) -> None:
        self.recording, self.about = recording, recording.about
        self.count = 0
        self.counts: Counter[str] = Counter()
        self.last: dict[str, tuple[int, int]] = {}  # log time and sequence of the last message, by topic
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.sizes: Counter[tuple[int, int]] = Counter()
        topics = (layout.image(self.about.camera), layout.decisions(self.about.camera)) if self.about else ()
        self.stamps: dict[str, dict[int, int]] = {topic: {} for topic in topics}  # log times by frame, of each topic
        self.decided: dict[int, str] = {}

    def see(self, record: Record) -> None:
        self.count += 1
        self.counts[record.topic] += 1
        before_ns, before = self.last.get(record.topic, (0, -1))
        # a frame that is dropped while another one is in work comes before it in the file
        if record.log_ns < before_ns and not (self.about and record.topic in self.stamps):
            self._fault(_BACK, record, f"by {(before_ns - record.log_ns) / 1e6:.1f} ms")
        if self.about:
            self._see_ours(record, self.about, before)
        self.last[record.topic] = record.log_ns, record.sequence

    def _see_ours(self, record: Record, about: About, before: int) -> None:
        camera = about.camera
        if record.topic == layout.image(camera):
            self._see_frame(record)
            self._see_size(record)
        elif record.topic == layout.decisions(camera):
            self._see_frame(record)
            try:
                decision = msgspec.json.decode(record.data, type=Decision)
                self.decided[decision.frame_seq] = decision.what
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                self._fault("a decision can't be read", record, str(error))
        elif record.topic.startswith(layout.wire(f"{camera}/")):
            if before >= 0 and record.sequence != (before + 1) & 0xFFFFFFFF:
                missing = (record.sequence - before - 1) & 0xFFFFFFFF
                told = f"{missing} messages" if missing < 1 << 31 else "the numbers go back"
                self._fault("messages are missing", record, told)
            self._see_wire(record)

    def _see_frame(self, record: Record) -> None:
        if record.sequence in self.stamps[record.topic]:
            self._fault("a frame is there twice", record, "")
        self.stamps[record.topic][record.sequence] = record.log_ns

    def _see_wire(self, record: Record) -> None:
        try:
            message = decode(record.data)
        except WireError as error:
            self._fault("a message can't be decoded", record, str(error))
            return
        if layout.wire(message.topic) != record.topic or message.seq & 0xFFFFFFFF != record.sequence:
            self._fault("a message is not the one that its row says", record, f"{message.topic} {message.seq}")

    def _see_size(self, record: Record) -> None:
        size = picture_size(record)
        if size is None:
            self._fault("an image can't be read", record, "")
        else:
            self.sizes[size] += 1

    def _fault(self, kind: str, record: Record, what: str) -> None:
        at_s = (record.log_ns - self.recording.begin_ns) / 1e9
        self.faults[kind].append(f"{record.topic} {record.sequence} at {at_s:.3f} s{': ' if what else ''}{what}")

    def told(self, path: Path) -> Checked:
        """All that was found."""
        recording, result = self.recording, Checked(path, self.count)
        result.faults += [f"damaged: {damage}" for damage in recording.damage]
        order = [f"{_BACK}: {line}" for line in self._frames_back()]
        if not self.about:
            order += [f"{_BACK}: {line}" for line in self.faults.pop(_BACK, [])]  # MCAP lets a writer do so
        (result.faults if self.about else result.notes).extend(_first(order))
        for kind, lines in self.faults.items():
            result.faults += _first([f"{kind}: {line}" for line in lines])
        for file in recording.files:
            if file.expected is not None and not file.damage and +Counter(file.expected) != Counter(file.counts):
                result.faults.append(f"{file.path}: its summary tells of other numbers of messages")
        if lack := lacks_end(recording):
            why = ": it is being written, or a crash left it (perception drive recover)" if lack == NOT_FINISHED else ""
            result.faults.append(lack + why)
        if self.about:
            result.faults += self._of_frames(self.about)
        self._of_recovery(result)
        if self.about:
            self._of_certificate(result)
        result.notes += self._notes()
        return result

    def _notes(self) -> Iterator[str]:
        if self.about is None:
            yield "not written by perception: only checksums and order were checked"
        elif not self.counts.keys() - {layout.state(self.about.camera), layout.wire(f"{self.about.camera}/health")}:
            yield "no frame is in it"
        if any(file.attachments for file in self.recording.files):
            yield "attachments were not read"

    def _frames_back(self) -> Iterator[str]:
        for topic, stamps in self.stamps.items():
            for (_, before_ns), (seq, log_ns) in pairwise(sorted(stamps.items())):
                if log_ns < before_ns:
                    yield f"{topic} {seq} by {(before_ns - log_ns) / 1e6:.1f} ms"

    def _of_frames(self, about: About) -> list[str]:
        faults = []
        if len(self.sizes) > 1:
            told = ", ".join(f"{w}x{h} ({n} frames)" for (w, h), n in self.sizes.most_common())
            faults.append(f"the size of the images changes: {told}")
        images = self.stamps[layout.image(about.camera)].keys()
        # A crash ends the node while a frame is in work, and later ones have been dropped behind it.
        crashed = not self.recording.is_finished or recovery_of(self.recording) is not None
        ends = {"stepped", "failed"} if crashed else {"stepped", "failed", "dropped", "broken"}
        last = max((seq for seq, what in self.decided.items() if what in ends), default=-1)
        is_none = not (self.decided or crashed)
        undecided = sorted(seq for seq in images - self.decided.keys() if seq < last or is_none)
        if undecided:
            faults.append(f"{len(undecided)} images without a decision, the first is of frame {undecided[0]}")
        seen = {seq for seq, what in self.decided.items() if what != "broken"}
        if about.frames != "none" and images and (unseen := sorted(seen - images)):
            faults.append(f"{len(unseen)} decisions without their image, the first is on frame {unseen[0]}")
        return faults

    def _of_recovery(self, result: Checked) -> None:
        recovery = recovery_of(self.recording)
        if recovery and (recovery.lost or recovery.lost_bytes):
            lost = sum(recovery.lost.values())
            told = f"{lost} messages were lost" if lost else f"{recovery.lost_bytes} bytes of it could not be read"
            result.faults.append(f"recovered from a damaged file: {told}")
        elif recovery:
            result.notes.append("recovered, without a loss, from a file that was not closed")

    def _of_certificate(self, result: Checked) -> None:
        certificate, recording = self.recording.certificate, self.recording
        if certificate is None:
            return
        if recording.about and recording.about.segment:
            result.notes.append(
                f"its first {recording.about.segment} segments are not here: the disk guard deletes them"
            )
            return
        for topic, tally in sorted(certificate.channels.items()):
            found = self.counts[topic]
            if found != tally.written:
                result.faults.append(f"{topic}: {found} messages, the certificate says {tally.written}")
            if tally.expected != tally.written:
                result.faults.append(f"{topic}: {tally.expected - tally.written} messages were not recorded")
        result.faults += [f"not recorded: {count} {reason}" for reason, count in certificate.lost.items()]


def _first(lines: list[str]) -> list[str]:
    """The first of them, and how many more of their kind there are."""
    kind = lines[0].partition(":")[0] if lines else ""
    return [*lines[:_TOLD], *([f"{kind}: {len(lines) - _TOLD} more"] if len(lines) > _TOLD else [])]


def picture_size(record: Record) -> tuple[int, int] | None:
    """Width and height [px] of an image message, from its header alone; None where it can't be told."""
    from google.protobuf.message import DecodeError

    if record.schema not in (COMPRESSED_IMAGE, RAW_IMAGE):
        return None
    try:
        message: Any = message_type(record.schema).FromString(record.data)
        if record.schema == RAW_IMAGE:
            return message.width, message.height
        if message.data[:8] == _PNG and len(message.data) > 24:
            return int.from_bytes(message.data[16:20], "big"), int.from_bytes(message.data[20:24], "big")
        return jpeg_size(message.data)
    except (WireError, DecodeError):
        return None

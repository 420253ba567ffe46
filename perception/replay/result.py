"""What a replay said: a recording without images, a digest of its messages, and how they compare with those of then."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from perception import wire
from perception.drives import layout
from perception.drives.layout import Record
from perception.drives.recording import Recording
from perception.errors import WireError

NOT_COMPARED = ("/health", "/image")
"""Topics that are not a function of what was decided."""


class Digest:
    """SHA-256 over topics and messages in the order in which they were made."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.count = 0

    def add(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for topic, data in messages:
            self._sha.update(f"{topic}\0{len(data)}\0".encode())
            self._sha.update(data)
            self.count += 1

    def hex(self) -> str:
        return self._sha.hexdigest()


@dataclass
class Sameness:
    """How many messages are, byte for byte, those that were recorded."""

    same: int = 0
    different: int = 0
    not_recorded: int = 0
    first_different: str = ""
    _expected: dict[tuple[str, int], bytes] = field(default_factory=dict, repr=False)

    @property
    def is_same(self) -> bool:
        """All that was said is what was recorded."""
        return self.same > 0 and not self.different and not self.not_recorded

    def expect(self, records: Iterable[Record]) -> None:
        """These were recorded."""
        for record in records:
            self._expected[record.topic, record.sequence] = _hash(record.data)

    def note(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Compare the messages of a frame."""
        for topic, data in messages:
            message = wire.decode(data)
            expected = self._expected.pop((layout.wire(topic), message.seq & 0xFFFFFFFF), None)
            if expected is None:
                self.not_recorded += 1
            elif expected == _hash(data):
                self.same += 1
            else:
                self.different += 1
                self.first_different = self.first_different or f"{topic}, frame {message.frame_seq}, seq {message.seq}"


def compared_topics(recording: Recording) -> set[str]:
    """The channels of messages that are a function of what was decided."""
    prefix = layout.wire(f"{recording.about.camera}/") if recording.about else ""
    return {t for t in recording.channels if t.startswith(prefix) and not t.endswith(NOT_COMPARED)}


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def digest_of(recording: Recording) -> str:
    """The digest of a result's messages, the same that the replay gave. Raises RecordingError, WireError."""
    digest = Digest()
    for record in recording.messages(compared_topics(recording)):
        topic = wire.decode(record.data).topic
        if layout.wire(topic) != record.topic:
            raise WireError(f"{record.topic}: a message of {topic}")
        digest.add([(topic, record.data)])
    return digest.hex()

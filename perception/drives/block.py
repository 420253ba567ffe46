"""What of a recording belongs together: the image, messages and decision of one frame."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from perception.drives.layout import Record


@dataclass(slots=True, eq=False)
class Block:
    """Records that become one chunk of a segment, so that damage to it costs one frame."""

    records: list[Record] = field(default_factory=list)
    expected: Counter[str] = field(default_factory=Counter)  # by topic: `records`, and those lost on their way here
    lost: Counter[str] = field(default_factory=Counter)  # by reason
    captured: int = 0  # frames that the source gave
    frame_size: tuple[int, int] | None = None  # width, height of the last of them [px]
    decided: Counter[str] = field(default_factory=Counter)  # frames by `Decision.what`
    has_state: bool = False

    def add(self, record: Record) -> None:
        self.records.append(record)
        self.expected[record.topic] += 1

    @property
    def log_ns(self) -> int:
        """Of its last record; 0 where it has none."""
        return self.records[-1].log_ns if self.records else 0

    @property
    def size(self) -> int:
        """[bytes]"""
        return sum(len(record.data) for record in self.records)

    @property
    def frames(self) -> int:
        """How many frames are missing where this is."""
        return max(self.captured, self.decided.total())

    @property
    def is_empty(self) -> bool:
        return not self.records and not self.expected and not self.lost


@dataclass(slots=True, eq=False)
class FrameCount:
    """Frames of several blocks: a frame whose image is in one and whose decision is in another counts once."""

    captured: int = 0
    decided: int = 0

    def add(self, block: Block) -> int:
        """How many frames more there are with it."""
        before = self.frames
        self.captured += block.captured
        self.decided += block.decided.total()
        return self.frames - before

    def __add__(self, other: FrameCount) -> FrameCount:
        return FrameCount(self.captured + other.captured, self.decided + other.decided)

    @property
    def frames(self) -> int:
        return max(self.captured, self.decided)

"""What waits for the recorder's thread: bounded, and what is dear and can be missed goes first."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perception.drives.layout import ControlCall, Decision, StateRow
from perception.types import Frame

_ROW = 1 << 10  # [bytes] a small row, roughly
_STATE = 1 << 20


@dataclass(slots=True, eq=False)
class Captured:
    """A frame, as soon as it is there."""

    frame: Frame | None  # None: the queue was full, its image is lost
    arrived_ns: int  # monotonic [ns]
    encoded: bytes = b""  # the image as the recording keeps it, where it is known already

    @property
    def size(self) -> int:
        return self.frame.image.nbytes + len(self.encoded) if self.frame else 0


@dataclass(slots=True, eq=False)
class Sent:
    """Messages that were published together."""

    messages: Sequence[tuple[str, bytes]]
    publish_ns: int  # wall clock, or the drive's [ns]

    @property
    def size(self) -> int:
        return sum(len(data) for _, data in self.messages)


@dataclass(slots=True, eq=False)
class Noted:
    """A row that is ours, or what makes a state's when it is asked."""

    row: Decision | ControlCall | StateRow | Callable[[], StateRow]

    @property
    def size(self) -> int:
        return _ROW if isinstance(self.row, Decision | ControlCall) else _STATE


@dataclass(slots=True, eq=False)
class Asked:
    """A trigger."""

    reason: str
    size: int = 0


Item = Captured | Sent | Noted | Asked


class RecordQueue:
    """First in, first out; any thread may put, one takes.

    Args:
        limit: of what waits [bytes].
        count: of items that wait.
        waits: `put` waits for room. Otherwise, where there is none, the images that have waited longest are dropped,
            then, if there are none, what comes.
    """

    def __init__(self, limit: int, count: int, waits: bool = False) -> None:
        self._limit, self._count, self._waits = limit, count, waits
        self._items: deque[Item] = deque()
        self._images: deque[Captured] = deque()
        self._dropped: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Whether it is in; after `close` nothing is."""
        size = item.size
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._closed or not self._items or self._has_room(size))
            if self._closed or not (self._waits or self._make_room(item)):
                return False
            self._items.append(item)
            self.size += item.size
            if isinstance(item, Captured):
                self._images.append(item)
            self._changed.notify_all()
        return True

    def take(self, timeout_s: float | None) -> Item | None:
        """The oldest item, None where none comes in time or the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout_s)
            if not self._items:
                return None
            item = self._items.popleft()
            self.size -= item.size
            if self._images and self._images[0] is item:
                self._images.popleft()
            if self._waits:
                self._changed.notify_all()
        return item

    def take_dropped(self) -> Counter[str]:
        """What did not fit since the last call besides images: messages by topic, and rows as ""."""
        with self._changed:
            dropped, self._dropped = self._dropped, Counter()
        return dropped

    def close(self) -> None:
        """Nothing comes in any more; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_drained(self) -> bool:
        """It is closed and empty: nothing will ever be taken again."""
        with self._changed:
            return self._closed and not self._items

    def _has_room(self, size: int) -> bool:
        return self.size + size <= self._limit and len(self._items) < self._count

    def _make_room(self, item: Item) -> bool:
        while self.size + item.size > self._limit and self._images:
            oldest = self._images.popleft()
            self.size -= oldest.size
            oldest.frame = None
        if isinstance(item, Captured) and not self._has_room(item.size):
            item.frame = None
        if self._has_room(item.size):
            return True
        self._dropped.update([topic for topic, _ in item.messages] if isinstance(item, Sent) else [""])
        return False

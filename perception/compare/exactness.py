"""Whether messages are the same bytes, and, where they are not, in what they differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from perception.wire import Header, Message


@dataclass(slots=True)
class TopicBytes:
    """The messages of one topic over the matched frames."""

    equal: int = 0
    frames: list[int] = field(default_factory=list)  # where the bytes differ
    parts: Counter[str] = field(default_factory=Counter)  # in what, in how many of them
    only: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))  # frames where A (B) alone has one

    def add(self, frame: int, a: tuple[bytes, Message] | None, b: tuple[bytes, Message] | None) -> bool:
        """Count one frame; returns whether the two are the same."""
        if a is None or b is None:
            if a or b:
                self.only[a is None].append(frame)
            return a is b
        if a[0] == b[0]:
            self.equal += 1
            return True
        self.frames.append(frame)
        self.parts.update(differences(a[1], b[1]))
        return False


def differences(a: Message, b: Message) -> list[str]:
    """Names of the parts in which two messages of a topic differ, the header's fields by name."""
    fixed = ("kind", "encoding", "seq", "frame_seq", "stamp_ns", "width", "height", "payload")
    parts = [name for name in fixed if getattr(a, name) != getattr(b, name)]
    return parts + [name for name in Header.__struct_fields__ if getattr(a.header, name) != getattr(b.header, name)]

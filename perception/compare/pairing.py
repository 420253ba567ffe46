"""Which frame of one recording is which of the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perception.compare.side import Key, Published, Side
from perception.drives.layout import About
from perception.errors import ConfigError

DRIVE_CLOCK = "drive"
MATCHES = ("auto", "stamp", "frame")


@dataclass(frozen=True, slots=True)
class Matching:
    """How frames find each other, and why so."""

    by: str  # stamp | frame
    why: str

    def key(self, frame_seq: int, stamp_ns: int) -> int:
        return stamp_ns if self.by == "stamp" else frame_seq


def same_drive(a: About, b: About) -> bool:
    """Whether both say something of the very same captured frames."""
    drives = [{about.recording, about.drive} - {""} for about in (a, b)]
    return bool(drives[0] & drives[1])


def matching(a: About, b: About, wanted: str = "auto") -> Matching:
    """By capture stamps where both count on one clock; else by frame numbers. Raises ConfigError for another wish."""
    if wanted not in MATCHES:
        raise ConfigError(f"match {wanted!r}: one of {', '.join(MATCHES)}")
    if wanted != "auto":
        return Matching(wanted, "as asked")
    if same_drive(a, b):
        return Matching("stamp", "both are of one drive")
    if a.clock == b.clock and a.clock not in ("", DRIVE_CLOCK):
        return Matching("stamp", "both count on the clock of one host")
    if a.clock == b.clock and a.source and a.source == b.source:
        return Matching("stamp", f"both come from {a.source}")
    return Matching("frame", "they share neither drive nor clock")


def paired(a: Side, b: Side, key: Key) -> Iterator[tuple[Published | None, Published | None]]:
    """Frames of both in step; None where one has no such frame. Frames of equal keys pair up in their order."""
    of_a, of_b = a.frames(key), b.frames(key)
    one, other = next(of_a, None), next(of_b, None)
    while one or other:
        place = key(one.frame_seq, one.stamp_ns) if one else None
        opposite = key(other.frame_seq, other.stamp_ns) if other else None
        takes_a = place is not None and (opposite is None or place <= opposite)
        takes_b = opposite is not None and (place is None or opposite <= place)
        yield (one if takes_a else None), (other if takes_b else None)
        one = next(of_a, None) if takes_a else one
        other = next(of_b, None) if takes_b else other

"""What a comparison found: checks, passed or not, and one line for each difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception.compare.measures import Measures
from perception.compare.plain import one_line
from perception.compare.series import runs

MOST_RANGES = 50
SHOWN_RANGES = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference that is not tolerated."""

    kind: str  # of KINDS
    subject: str  # topic, class, or both classes of a swap
    text: str  # one line: what, where, how much
    value: float
    threshold: float
    frames: tuple[tuple[int, int], ...] = ()  # runs of A's frame_seq, both ends included; the first MOST_RANGES
    stamps_ns: tuple[int, int] | None = None  # of the first and the last frame, on A's clock [ns]
    worst: int | None = None  # number of the matched frame that shows it best

    def __post_init__(self) -> None:
        for name in ("subject", "text"):  # they hold names out of recordings
            object.__setattr__(self, name, one_line(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    kind: str  # of KINDS
    subject: str
    findings: tuple[Finding, ...] = ()
    skipped: str = ""  # why it was not judged; "" where it was

    @property
    def is_passed(self) -> bool:
        return not self.findings


KINDS = {
    "topics": "topics that A has",
    "frames": "frames published",
    "class swap": "classes that took others' place",
    "id switch": "ids of things",
    "vanished": "things that only A shows",
    "appeared": "things that only B shows",
    "validity": "validity",
    "latency": "latency",
    "IoU": "overlap of classes",
    "boundary": "borders of classes",
    "messages": "messages sent",
    "bytes": "equal bytes",
}
"""Kinds of checks, the most telling first, and what they look at."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a difference is."""

    measures: Measures

    def finding(
        self,
        kind: str,
        subject: str,
        text: str,
        frames: Sequence[int],
        value: float,
        threshold: float,
        worst: int | None = None,
    ) -> Finding:
        """`text` with "{where}" in it, about these matched frames, rising; `worst` is one of them, else the first."""
        kept = self.measures.frames
        ranges = [(kept.seqs[first], kept.seqs[last]) for first, last in runs(frames)]
        stamps = (kept.stamps_ns[frames[0]], kept.stamps_ns[frames[-1]])
        line = text.replace("{where}", self.where(frames))
        shown = frames[0] if worst is None else worst
        return Finding(kind, subject, line, value, threshold, tuple(ranges[:MOST_RANGES]), stamps, shown)

    def where(self, frames: Sequence[int]) -> str:
        """Like "5 frames, 100-104 (3.33-3.47 s)", by A's frame numbers and seconds since its first matched frame."""
        kept = self.measures.frames
        parts = []
        for first, last in runs(frames)[:SHOWN_RANGES]:
            span = f"{kept.seqs[first]}-{kept.seqs[last]} ({self._seconds(first):.2f}-{self._seconds(last):.2f} s)"
            parts.append(self.at(first) if first == last else span)
        more = len(runs(frames)) - len(parts)
        tail = f" and {more} more runs" if more > 1 else " and 1 more run" if more else ""
        count = "1 frame" if len(frames) == 1 else f"{len(frames)} frames"
        return f"{count}, {', '.join(parts)}{tail}"

    def at(self, frame: int) -> str:
        """Like "104 (3.47 s)"."""
        return f"{self.measures.frames.seqs[frame]} ({self._seconds(frame):.2f} s)"

    def _seconds(self, frame: int) -> float:
        stamps = self.measures.frames.stamps_ns
        return (stamps[frame] - stamps[0]) * 1e-9

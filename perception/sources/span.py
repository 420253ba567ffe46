"""A part of a drive: from one time to another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from perception.errors import SourceError
from perception.sources.options import Options
from perception.sources.shots import Reader, Shot


@dataclass(frozen=True, slots=True)
class Span:
    """begin <= stamp < end, counted from the drive's start; `end_ns` None: to its end."""

    begin_ns: int = 0
    end_ns: int | None = None

    @property
    def is_all(self) -> bool:
        return self.begin_ns == 0 and self.end_ns is None


def make_span(begin_s: float, end_s: float | None, name: str) -> Span:
    """Raises SourceError when it is empty, or begins before the drive. `name` is the setting as shown in errors."""
    if not 0 <= begin_s <= 1e9:
        raise SourceError(f"{name}: from {begin_s:g} s: must be 0 or more seconds from the drive's start")
    if end_s is not None and not begin_s < end_s <= 1e9:
        raise SourceError(f"{name}: from {begin_s:g} to {end_s:g} s is empty: give an end after the begin")
    return Span(round(begin_s * 1e9), None if end_s is None else round(end_s * 1e9))


def take_span(options: Options, name: str) -> Span:
    """The span of `from=12.5&to=20` [s]."""
    begin_s, end_s = options.seconds("from"), options.seconds("to")
    return make_span(begin_s or 0.0, end_s, name)


class SpanReader:
    """The shots of a reader within a span. They keep their stamps and places, so that results can be compared."""

    def __init__(self, reader: Reader, span: Span) -> None:
        self._reader, self._span = reader, span
        self.name, self.width, self.height, self.fps = reader.name, reader.width, reader.height, reader.fps

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        """One pass. Raises SourceError also when the drive has nothing within the span."""
        span, last_ns, is_empty = self._span, -1, True
        for shot in self._reader.shots(max(begin_ns, span.begin_ns)):
            last_ns = shot.stamp_ns
            if span.end_ns is not None and last_ns >= span.end_ns:
                break
            if last_ns >= span.begin_ns:
                is_empty = False
                yield shot
        if is_empty and begin_ns <= span.begin_ns:
            raise SourceError(self._nothing(last_ns))

    def length_ns(self) -> int:
        """Of the whole drive, or to the end of the span where that is before."""
        whole_ns, end_ns = self._reader.length_ns(), self._span.end_ns
        return whole_ns if end_ns is None else min(whole_ns or end_ns, end_ns)

    @property
    def begin_ns(self) -> int:
        """Where it begins in the drive."""
        return self._span.begin_ns

    def identity(self) -> str:
        """16 hex digits over the drive's content and the span."""
        text = f"{self._reader.identity()} {self._span.begin_ns} {self._span.end_ns}"
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    def _nothing(self, last_ns: int) -> str:
        begin_s, end_ns = self._span.begin_ns / 1e9, self._span.end_ns
        asked = f"from {begin_s:g} s" + ("" if end_ns is None else f" to {end_ns / 1e9:g} s")
        known = f": its last one is at {last_ns / 1e9:.3f} s" if 0 <= last_ns < self._span.begin_ns else ""
        return f"{self.name}: no frame {asked}{known}: give times within the drive"

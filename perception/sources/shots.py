"""What a source's inner part gives, before it is a frame: the seams inside this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from perception.images import Image


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One image or the place of one that could not be used."""

    image: Image | None  # None: broken
    stamp_ns: int  # live: host's monotonic clock; recorded: since the start of the drive [ns]
    index: int = 0  # recorded: position in the drive, broken ones counted
    encoded: Callable[[], bytes] = bytes  # recorded: reads the picture as it is stored; b"" where it is no file


class Device(Protocol):
    """Something live and open. Used by one thread only."""

    fps: float  # nominal; 0 when unknown

    def read(self) -> Shot:
        """The next shot; blocks for a bounded time. Raises SourceError when the device stalled, ended or is gone."""
        ...

    def close(self) -> None: ...


class Reader(Protocol):
    """Something recorded: the same shots on every pass."""

    @property
    def name(self) -> str: ...  # as shown to people, without credentials
    @property
    def width(self) -> int: ...  # [px]
    @property
    def height(self) -> int: ...  # [px]
    @property
    def fps(self) -> float: ...  # nominal; 0 when unknown

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        """One pass over all shots in order, stamps strictly rising from 0. Raises SourceError when it can't go on.

        Shots stamped before `begin_ns` may come without their image, or not at all; the others are not changed.
        """
        ...

    def length_ns(self) -> int:
        """About how long it is [ns]; 0 where that is not known before all of it was read."""
        ...

    def identity(self) -> str:
        """A short hash of the content: equal for equal drives, wherever they are stored."""
        ...

"""Who decides which captured frames are stepped, and how: one for each way of replaying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perception.drives.layout import Decision


class Decider(Protocol):
    """Is fed what was captured and decided then, in order and in pieces."""

    def feed(self, captured: Sequence[Decision]) -> list[Decision]:
        """The decisions of now, as far as they can be made; one a frame in the end."""
        ...

    def finish(self) -> list[Decision]:
        """The rest, as nothing more comes."""
        ...


class Exactly:
    """Steps every captured frame, whatever became of it then; when the network looks is for `plans.Turns` to say.

    Args:
        engine: its name.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine

    def feed(self, captured: Sequence[Decision]) -> list[Decision]:
        return [frame if frame.what == "broken" else self._stepped(frame) for frame in captured]

    def finish(self) -> list[Decision]:
        return []

    def _stepped(self, frame: Decision) -> Decision:
        return Decision(frame.frame_seq, frame.stamp_ns, "stepped", "", True, self._engine)


class AsThen:
    """Decides what was decided."""

    def feed(self, captured: Sequence[Decision]) -> list[Decision]:
        return [*captured]

    def finish(self) -> list[Decision]:
        return []

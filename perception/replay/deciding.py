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
    """Steps every captured frame, whatever became of it then.

    Args:
        steps: frames that were taken before.
        network_every: the network looks at every n-th.
        engine: its name.
    """

    def __init__(self, steps: int, network_every: int, engine: str) -> None:
        self._steps, self._every, self._engine = steps, network_every, engine

    def feed(self, captured: Sequence[Decision]) -> list[Decision]:
        made: list[Decision] = []
        for frame in captured:
            if frame.what == "broken":
                made.append(frame)
                continue
            looks = self._steps % self._every == 0
            made.append(Decision(frame.frame_seq, frame.stamp_ns, "stepped", "", looks, self._engine))
            self._steps += 1
        return made

    def finish(self) -> list[Decision]:
        return []


class AsThen:
    """Decides what was decided."""

    def feed(self, captured: Sequence[Decision]) -> list[Decision]:
        return [*captured]

    def finish(self) -> list[Decision]:
        return []

"""Messages of one frame put together: its picture, its masks, its tracks."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from perception.client import Received
from perception.wire import Kind

_KEPT = 8  # frames that wait for the rest of their messages
_PICTURES_COME_S = 2.0  # without a picture for so long, frames are shown without one


@dataclass(slots=True, eq=False)
class SeenFrame:
    """What came of one frame of one camera."""

    camera: str
    run: str
    seq: int
    messages: dict[str, Received] = field(default_factory=dict)  # by topic without its camera
    is_given: bool = False  # was shown, though its picture may still come

    @property
    def picture(self) -> Received | None:
        return next((message for message in self.messages.values() if message.kind is Kind.IMAGE), None)


class FrameAssembler:
    """Puts the messages of each frame together.

    The publisher sends a frame's masks first, then its tracks and events, and its picture last, so a picture makes a
    frame whole; where no pictures come, the tracks do.
    """

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[str, str, int], SeenFrame] = OrderedDict()
        self._pictures: dict[str, float] = {}  # when the last one came, by camera
        self.left_out = 0  # frames that were never whole

    def add(self, message: Received) -> SeenFrame | None:
        """Take a message in; its frame, once it is whole."""
        camera, _, name = message.topic.partition("/")
        key = (camera, message.header.run, message.frame_seq)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = SeenFrame(*key)
        frame.messages[name] = message
        if len(self._frames) > _KEPT:
            self._let_go(next(iter(self._frames)))
        now = time.monotonic()
        if message.kind is Kind.IMAGE:
            self._pictures[camera] = now
            return self._take(key)
        is_last = name == "tracks" and now - self._pictures.get(camera, 0.0) > _PICTURES_COME_S
        frame.is_given |= is_last
        return frame if is_last else None

    def _take(self, key: tuple[str, str, int]) -> SeenFrame:
        """Older frames of the camera are not waited for any more."""
        frame = self._frames.pop(key)
        for other in [k for k, f in self._frames.items() if k[:2] == key[:2] and f.seq < frame.seq]:
            self._let_go(other)
        return frame

    def _let_go(self, key: tuple[str, str, int]) -> None:
        self.left_out += not self._frames.pop(key).is_given

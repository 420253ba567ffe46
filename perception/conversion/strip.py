"""The strip below the pictures of a drive's video: when, which frame, how it was made; the whole drive in one bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.conversion.reading import RecordedFrame
from perception.opencv import cv2
from perception.sinks.overlay import write_text

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "observed": (70, 180, 90),
    "propagated": (70, 130, 230),
    "degraded": (240, 170, 40),
    "no_input": (150, 60, 160),
    "failed": (230, 60, 50),
    "dropped": (255, 0, 0),
    "": (90, 90, 90),
}
"""RGB of a frame in the bar, by its validity; "" where nothing was said about it."""
_BACK, _CURSOR = (24, 24, 24), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Said:
    """One frame in words."""

    kind: str  # of COLOURS
    text: str


def said_of(frame: RecordedFrame) -> Said:
    decision = frame.decision
    if decision and decision.what != "stepped" and not frame.messages:
        kind = "failed" if decision.what == "failed" else "dropped"
        return Said(kind, f"{decision.what}: {decision.reason}" if decision.reason else decision.what)
    if not frame.messages:
        return Said("", "camera alone")
    head = next(iter(frame.messages.values())).header
    since = f"{head.since_network} since the network looked" if head.since_network else ""
    why = head.reason or since
    return Said(head.validity if head.validity in COLOURS else "", f"{head.validity}: {why}" if why else head.validity)


class Strip:
    """Draws the strip, and remembers what the frames before were.

    Args:
        width: of the pictures above it [px].
        begin_ns, end_ns: what the whole bar stands for [ns].
    """

    def __init__(self, width: int, begin_ns: int, end_ns: int) -> None:
        self._begin_ns, self._span_ns = begin_ns, max(1, end_ns - begin_ns)
        self._text_px = max(16, width // 50)
        bar_px = max(6, width // 160)
        self._bar = np.full((bar_px, width, 3), 50, np.uint8)
        self._ticks = np.zeros((bar_px // 2, width), np.bool_)  # dropped frames: never painted over
        self._last = self._dropped = 0
        self.height = self._text_px + bar_px

    def note(self, frame: RecordedFrame) -> tuple[Said, int]:
        """Remember a frame; what it is, and its place in the bar [px]."""
        said, width = said_of(frame), self._bar.shape[1]
        at = min(width - 1, max(0, (frame.stamp_ns - self._begin_ns) * width // self._span_ns))
        if said.kind == "dropped":
            self._ticks[:, at] = True
            self._dropped += 1
        else:
            first = self._last + 1 if at - self._last < width // 8 else at  # a longer gap is seen as one
            self._bar[:, min(at, first) : at + 1] = COLOURS[said.kind]
            self._last = at
        return said, at

    def draw(self, frame: RecordedFrame) -> NDArray[np.uint8]:
        """(height, width, 3) RGB."""
        said, at = self.note(frame)
        width, dropped, self._dropped = self._bar.shape[1], self._dropped, 0
        strip = np.full((self.height, width, 3), _BACK, np.uint8)
        strip[self._text_px :] = self._bar
        strip[self._text_px : self._text_px + len(self._ticks)][self._ticks] = COLOURS["dropped"]
        cv2.line(strip, (at, self._text_px), (at, self.height), _CURSOR, 1)
        lost = f"   {dropped} dropped before" if dropped and said.kind != "dropped" else ""
        seconds = (frame.stamp_ns - self._begin_ns) / 1e9
        cv2.rectangle(strip, (0, 0), (self._text_px // 2, self._text_px - 3), COLOURS[said.kind], -1)
        text = f"{seconds:9.3f} s   frame {frame.seq}   {said.text}{lost}"
        write_text(strip, text, (self._text_px // 2 + 2, 1), _BACK)
        return strip

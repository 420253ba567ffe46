"""A frame as bytes for the page: u32 length of a JSON header, the header, the JPEG, the masks as runs.

A run is (end, value): u32 ends first, then u16 values, in pixel order from the top left. It is what a page can paint
without decoding anything: one `fill` a run. Everything begins at a multiple of 8 bytes.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.client import Received
from perception.errors import WireError
from perception.sinks.overlay import colour_of
from perception.view.frames import SeenFrame
from perception.wire import Kind, TrackRow
from perception.wire.pixels import MASKS, jpeg_size

MOST_PIXELS = 4 << 20
"""Of a mask or picture that is shown: more would stop a browser, and a node does not send more."""
MOST_JPEG = 8 << 20
MOST_TRACKS = 1000
_LONGEST_WORD = 48
_ORDER = (Kind.LABELS, Kind.BITS, Kind.POSITIONS)


class Packet:
    """One frame, decoded once for all pages.

    Attributes:
        complaint: why a part of it is left out; "" for none.
    """

    def __init__(self, frame: SeenFrame) -> None:
        self.frame, self.message_count = frame, len(frame.messages)
        self.complaint = ""
        self._parts: list[bytes] = []
        self._size = 0
        self._head = self._header()

    def encode(self, n: int, age_s: float | None) -> bytes:
        """The bytes for one page, which is to acknowledge `n`; `age_s` is how old the frame is now."""
        age_ms = None if age_s is None else round(age_s * 1e3, 2)
        head = msgspec.json.encode(self._head | {"n": n, "age_ms": age_ms})
        return b"".join((struct.pack("<I", len(head)), head, bytes(-(4 + len(head)) % 8), *self._parts))

    def _header(self) -> dict[str, Any]:
        frame = self.frame
        messages = [m for m in frame.messages.values() if m.kind in MASKS or m.kind is Kind.TRACKS]
        rows = self._rows(messages)
        places = {row.id: k for k, row in enumerate(rows)}
        picture = self._picture(frame.picture)
        masks = [self._mask(m, places) for kind in _ORDER for m in messages if m.kind is kind]
        told = messages[0] if messages else next(iter(frame.messages.values()))
        header = told.header
        size = next(((m.width, m.height) for m in messages if m.width), (0, 0))
        return {
            "kind": "frame",
            "run": header.run[:64],
            "seq": frame.seq,
            "validity": plain(header.validity),
            "reason": plain(header.reason, 200),
            "since": header.since_network,
            "size": size,
            "frame": (header.frame_width, header.frame_height),
            "roi": header.roi,
            "image": picture,
            "masks": [mask for mask in masks if mask],
            "tracks": [_track(row, told.stamp_ns) for row in rows],
        }

    def _rows(self, messages: list[Received]) -> list[TrackRow]:
        """All tracks of the frame, each once."""
        found: dict[int, TrackRow] = {}
        for message in sorted(messages, key=lambda m: m.kind is not Kind.TRACKS):
            for row in message.header.tracks:
                found.setdefault(row.id, row)
        if len(found) > MOST_TRACKS:
            self.complaint = f"{len(found)} tracks: {MOST_TRACKS} are shown"
        return list(found.values())[:MOST_TRACKS]

    def _picture(self, message: Received | None) -> tuple[int, int] | None:
        if message is None:
            return None
        try:
            told = jpeg_size(message.payload)
        except WireError as error:
            self.complaint = str(error)
            return None
        if told != (message.width, message.height):
            size = f"{message.width}x{message.height}"
            self.complaint = f"a picture of {told[0]}x{told[1]} px that should be {size} px"
        elif told[0] * told[1] > MOST_PIXELS or len(message.payload) > MOST_JPEG:
            self.complaint = f"a picture of {told[0]}x{told[1]} px: too large to be shown"
        else:
            return self._put(message.payload)[0], len(message.payload)
        return None

    def _mask(self, message: Received, places: dict[int, int]) -> dict[str, Any] | None:
        name = message.topic.partition("/")[2]
        if message.width * message.height > MOST_PIXELS:
            self.complaint = f"{name}: a mask of {message.width}x{message.height} px: too large to be shown"
            return None
        try:
            ends, values = runs_of(message.mask())
        except WireError as error:
            self.complaint = str(error)
            return None
        names, rows = _names(message, name), [places.get(row.id, -1) for row in message.header.tracks]
        if -1 in rows:  # beyond MOST_TRACKS
            values = np.where(np.array([-1, *rows])[values] < 0, 0, values).astype("<u2")
        return {
            "topic": name,
            "kind": message.kind.name.lower(),
            "width": message.width,
            "height": message.height,
            "at": self._put(ends.tobytes(), values.tobytes())[0],
            "runs": len(ends),
            "names": [plain(text) for text in names],
            "colours": [colour_of(text) for text in names],
            "rows": rows,
        }

    def _put(self, *data: bytes) -> tuple[int, int]:
        at, whole = self._size, b"".join(data)
        padded = whole + bytes(-len(whole) % 8)
        self._parts.append(padded)
        self._size += len(padded)
        return at, len(whole)


def runs_of(mask: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Ends (exclusive) and values of the runs of equal pixels of an (h, w) mask, in pixel order."""
    flat = (mask.view(np.uint8) if mask.dtype == np.bool_ else mask).ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size).astype("<u4")
    return ends, flat[ends - 1].astype("<u2")


def finite(value: float) -> float:
    """A number from the network as a page can show it: what is none is 0."""
    return value if math.isfinite(value) else 0.0


def plain(text: str, most: int = _LONGEST_WORD) -> str:
    """Text from the network without what is not to be seen, cut to a length."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def _names(message: Received, topic: str) -> list[str]:
    """What the values of a mask mean: of bits the topic's one, of labels by index, of positions by row."""
    header = message.header
    match message.kind:
        case Kind.BITS:
            return [topic]
        case Kind.LABELS:
            return list(header.classes[:255])
    return [row.class_name for row in header.tracks]


def _track(row: TrackRow, stamp_ns: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "class": plain(row.class_name),
        "state": plain(row.state),
        "score": round(finite(row.score), 3),
        "box": row.box,
        "age_s": max(0.0, round((stamp_ns - row.first_ns) / 1e9, 2)),
        "observed": row.observed,
        "quality": finite(row.quality),
        "prompted": row.prompted,
    }

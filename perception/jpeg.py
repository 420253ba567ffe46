"""The frame size of a JPEG, by its header alone; of nothing else, so that a subscriber can afford it."""

from __future__ import annotations

_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that nothing belongs to
_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_FILL = 0xFF  # a byte that may stand before a marker any number of times


def frame_size(data: bytes) -> tuple[int, int] | None:
    """Width and height [px] that the frame header tells; None where there is none."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == _FILL:
            at += 1
        else:
            at += 2 if marker in _NO_LENGTH else 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None

"""One encoded picture to RGB, refused by its header before anything large is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import SourceError
from perception.jpeg import frame_size
from perception.opencv import MAX_PIXELS, cv2

Image = NDArray[np.uint8]
"""(h, w, 3) RGB, uint8, C-contiguous, its memory never used again by whoever made it."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
"""File names that count as pictures, in lower case."""

_MAX_BYTES = 256 * 2**20


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height [px] by the header alone; None when it is not a JPEG, PNG, WebP or BMP that says so."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"\xff\xd8":
            return frame_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:2] == b"BM":
            return _bmp_size(data)
    except (struct.error, IndexError):
        return None
    return None


def decode_image(data: bytes, name: str) -> Image:
    """The picture as RGB in memory of its own. Raises SourceError when it is broken, unknown or too large."""
    if not data:
        raise SourceError(f"{name}: the file is empty: give a JPEG, PNG, WebP or BMP picture")
    size = image_size(data)
    if size is None:
        raise SourceError(f"{name}: not a JPEG, PNG, WebP or BMP picture, or its header is broken")
    width, height = size
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise SourceError(f"{name}: claims {width}x{height} pixels; at most {MAX_PIXELS} are decoded: scale it down")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise SourceError(f"{name}: the picture is broken or cut off")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def load_image(path: Path) -> Image:
    """The picture in a file as RGB. Raises SourceError, also when the file can't be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"{path}: larger than {_MAX_BYTES >> 20} MiB: not taken for a picture")
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}: give a readable picture") from None
    return decode_image(data, str(path))


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp_size(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)

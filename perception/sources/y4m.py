"""YUV4MPEG2, the uncompressed video that ffmpeg and GStreamer write to pipes: headers, and a frame to RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.errors import SourceError
from perception.opencv import MAX_PIXELS, cv2
from perception.sources.shots import Image

MAGIC = b"YUV4MPEG2"
"""How every stream begins."""

MAX_LINE = 256
"""The longest header line that is read [bytes]."""

_CHROMAS = frozenset({"mono", "420", "420jpeg", "420mpeg2", "420paldv"})


@dataclass(frozen=True, slots=True)
class Y4mHeader:
    """What the first line of a stream says."""

    width: int  # [px], even
    height: int  # [px], even
    fps: float  # 0 when unknown
    mono: bool  # brightness only

    @property
    def frame_bytes(self) -> int:
        """Size of one frame without its own line."""
        pixels = self.width * self.height
        return pixels if self.mono else pixels * 3 // 2


def parse_header(line: bytes) -> Y4mHeader:
    """Read `YUV4MPEG2 W640 H480 F30:1 C420jpeg`. Raises SourceError when it is something else, or too large."""
    words = line.decode("ascii", "replace").split()
    if not words or words[0] != "YUV4MPEG2":
        raise SourceError(f"the pipe does not carry YUV4MPEG2, it begins with {line[:16]!r}: use -f yuv4mpegpipe")
    fields = {word[0]: word[1:] for word in reversed(words[1:])}
    width, height = _number(fields.get("W", "")), _number(fields.get("H", ""))
    if not (0 < width * height <= MAX_PIXELS) or width % 2 or height % 2:
        raise SourceError(f"the pipe says {width}x{height} pixels: both must be even, and at most {MAX_PIXELS} in all")
    chroma = fields.get("C", "420")
    if chroma not in _CHROMAS:
        raise SourceError(f"the pipe carries chroma {chroma!r}: send 8-bit 4:2:0 (ffmpeg: -pix_fmt yuv420p)")
    rate, _, per = fields.get("F", "0:1").partition(":")
    return Y4mHeader(width, height, _number(rate) / max(1, _number(per)), chroma == "mono")


def frame_to_rgb(header: Y4mHeader, payload: bytearray) -> Image:
    """One frame's bytes as RGB (limited range BT.601, what both tools write) in memory of its own."""
    flat = np.frombuffer(payload, np.uint8, header.frame_bytes)
    if header.mono:
        return cv2.cvtColor(flat.reshape(header.height, header.width), cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
    planes = flat.reshape(header.height * 3 // 2, header.width)
    return cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)  # type: ignore[return-value]


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0

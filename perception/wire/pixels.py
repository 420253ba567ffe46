"""Arrays to payload bytes and back. Sizes are checked before anything is allocated.

numpy, zstandard, lz4 and OpenCV are imported where they are needed: a subscriber that reads only headers, or has
not received anything yet, does not pay for them.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from perception.errors import WireError
from perception.jpeg import frame_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIDE = 16384
"""Longest side of a mask or image [px]."""
MAX_RAW = 64 << 20
"""Most bytes that a payload may expand to."""
MAX_IMAGE = 64_000_000
"""Most pixels of an image that is decoded; more is taken for a decompression bomb."""
ENCODINGS = ("raw", "zstd", "lz4")
"""Names of the encodings, by their number on the wire."""

_per_thread = threading.local()


class Kind(IntEnum):
    """What the payload is."""

    BITS = 0  # binary mask: bits, most significant first, each row padded to whole bytes
    POSITIONS = 1  # u16 little endian: 0 = nothing, k = tracks[k - 1]
    LABELS = 2  # u8: index into classes, 255 = void
    IMAGE = 3  # JPEG of the camera image
    TRACKS = 4  # no payload: the header's tracks or events are the message
    HEALTH = 5  # msgpack


MASKS = frozenset({Kind.BITS, Kind.POSITIONS, Kind.LABELS})


def raw_bytes(kind: Kind, width: int, height: int) -> int:
    """Bytes of a mask of this kind before it is encoded."""
    row = {Kind.BITS: (width + 7) // 8, Kind.POSITIONS: 2 * width, Kind.LABELS: width}[kind]
    return row * height


def pack(kind: Kind, mask: NDArray[Any]) -> bytes:
    """The bytes of an (h, w) mask: bool or uint8 for BITS, uint16 for POSITIONS, uint8 for LABELS."""
    import numpy as np

    wanted = {Kind.BITS: ("bool", "uint8"), Kind.POSITIONS: ("uint16",), Kind.LABELS: ("uint8",)}[kind]
    if mask.ndim != 2 or mask.dtype.name not in wanted:
        raise WireError(f"a {kind.name.lower()} mask is (h, w) {' or '.join(wanted)}, not {mask.shape} {mask.dtype}")
    if kind is Kind.BITS:
        return np.packbits(mask, axis=1).tobytes()
    return mask.astype("<u2", copy=False).tobytes() if kind is Kind.POSITIONS else mask.tobytes()


def unpack(kind: Kind, raw: bytes, width: int, height: int) -> NDArray[Any]:
    """The (h, w) mask of `raw_bytes` bytes: bool, uint16 or uint8, perhaps read-only."""
    import numpy as np

    if kind is Kind.BITS:
        rows = np.frombuffer(raw, np.uint8).reshape(height, -1)
        return np.unpackbits(rows, axis=1, count=width).view(np.bool_)
    return np.frombuffer(raw, "<u2" if kind is Kind.POSITIONS else np.uint8).reshape(height, width)


def shrink(raw: bytes, encoding: str) -> bytes:
    """`raw` in an encoding of ENCODINGS."""
    if encoding == "zstd":
        import zstandard

        if not hasattr(_per_thread, "compressor"):
            _per_thread.compressor = zstandard.ZstdCompressor(level=1)
        return _per_thread.compressor.compress(raw)
    if encoding == "lz4":
        import lz4.block

        return lz4.block.compress(raw, store_size=False)
    return raw


def expand(payload: bytes, encoding: str, size: int) -> bytes:
    """The `size` bytes that `payload` holds. Raises WireError, before allocating, for any other size."""
    if encoding == "zstd":
        raw = _expand_zstd(payload, size)
    elif encoding == "lz4":
        raw = _expand_lz4(payload, size)
    else:
        raw = bytes(payload)
    if len(raw) != size:
        raise WireError(f"the payload holds {len(raw)} bytes where its header says {size}")
    return raw


def _expand_zstd(payload: bytes, size: int) -> bytes:
    import zstandard

    try:
        # decompress() ignores max_output_size where the frame says its own size: 8 KB could become 256 MB.
        told = zstandard.frame_content_size(payload)
        if told != size:
            raise WireError(f"the zstd payload tells {told} bytes where its header says {size}")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError, ValueError) as error:
        raise WireError(f"broken zstd payload: {error}") from error


def _expand_lz4(payload: bytes, size: int) -> bytes:
    import lz4.block

    try:
        return lz4.block.decompress(payload, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, MemoryError, ValueError) as error:
        raise WireError(f"broken lz4 payload: {error}") from error


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG tells in its frame header. Raises WireError where there is none."""
    if (told := frame_size(data)) is None:
        raise WireError("the image payload is not a JPEG")
    return told


def decode_jpeg(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The (height, width, 3) RGB image of a JPEG. Raises WireError, before decoding, for any other size."""
    import cv2
    import numpy as np

    if (told := jpeg_size(data)) != (width, height):
        raise WireError(f"the JPEG tells {told[0]}x{told[1]} where its header says {width}x{height}")
    if width * height > MAX_IMAGE:
        raise WireError(f"the JPEG claims {width}x{height} pixels; at most {MAX_IMAGE} are decoded")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise WireError("the image payload can't be decoded") from error
    if image is None or image.shape != (height, width, 3):
        raise WireError("the image payload can't be decoded")
    return image.astype(np.uint8, copy=False)

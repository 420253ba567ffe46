"""What the header of a picture says: its size; few bits a pixel and a turned picture, which decoding hides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from perception.errors import ConfigError
from perception.images import image_size

_HEADER_BYTES = 2**16  # in which nearly all files say their size
_ORIENTATION = 0x0112  # EXIF's tag
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9  # JPEG markers: EXIF's segment, and what it never stands behind


def require_depth(path: Path, depths: Collection[int] = (8, 16)) -> None:
    """Raises ConfigError where a grey PNG has another number of bits a pixel.

    OpenCV stretches the values of 1, 2 and 4 bits to 0..255: class 1 of a map of 1 bit would be 255, so ignored.
    """
    with path.open("rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[25:] != b"\0":  # the last byte: 0 grey, 3 palette
        return
    bits = header[24]
    if bits not in depths:
        raise ConfigError(f"{path}: {bits} bit{'s' * (bits > 1)} a pixel; write 8 bits a pixel")


def require_upright(path: Path) -> None:
    """Raises ConfigError where a JPEG is stored turned or mirrored: its label map has no tag that turns it too."""
    turned = orientation(path)
    if turned != 1:
        raise ConfigError(
            f"{path}: stored turned (EXIF orientation {turned}), its labels are not; write picture and labels upright, "
            "without the tag"
        )


def require_size(path: Path, shape: Sequence[int], wanted: Sequence[int], of: str) -> None:
    """Raises ConfigError where (h, w) = `shape`, of what `path` holds, is not `wanted`, the shape of `of`."""
    if tuple(shape) != tuple(wanted):
        raise ConfigError(f"{path}: {shape[1]}x{shape[0]}, {of} is {wanted[1]}x{wanted[0]}; they must have one size")


def shape_of(path: Path) -> tuple[int, int] | None:
    """Height, width [px]; None where they can't be read: whoever reads the whole file says what is wrong."""
    try:
        with path.open("rb") as file:
            size = image_size(file.read(_HEADER_BYTES))
    except OSError:
        return None
    return size and (size[1], size[0])


def orientation(path: Path) -> int:
    """EXIF orientation of a JPEG, 1..8; 1, upright, where it says none, is no JPEG or can't be read."""
    try:
        with path.open("rb") as file:
            tiff = _exif(file)
    except OSError:
        return 1  # whoever reads the picture says what is wrong
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    first = number(4, 4) + 2
    for at in range(first, min(first + 12 * number(first - 2, 2), len(tiff)), 12):
        if number(at, 2) == _ORIENTATION:
            found = number(at + 8, 2)
            return found if 1 <= found <= 8 else 1
    return 1


def _exif(file: BinaryIO) -> bytes:
    """The TIFF structure of a JPEG's EXIF segment; empty without one."""
    marker = file.read(2)
    if marker != b"\xff\xd8":
        return b""
    while len(marker := file.read(2)) == 2 and marker[0] == 0xFF and marker[1] not in (_SCAN, _END):
        if marker[1] == 0xFF:  # a fill byte: the marker begins one later
            file.seek(-1, 1)
            continue
        length = max(0, int.from_bytes(file.read(2), "big") - 2)
        if marker[1] != _APP1:
            file.seek(length, 1)
        elif (body := file.read(length))[:6] == b"Exif\0\0":
            return body[6:]
    return b""

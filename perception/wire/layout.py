"""The bytes of a message: topic, NUL, a fixed header, a msgpack header, the payload.

The fixed header is enough to read the pixels, so a C++ program needs no msgpack. docs/wire.md has the table.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from perception.errors import WireError
from perception.wire.pixels import (
    ENCODINGS,
    MASKS,
    MAX_RAW,
    MAX_SIDE,
    Kind,
    decode_jpeg,
    expand,
    pack,
    raw_bytes,
    shrink,
    unpack,
)
from perception.wire.schema import Header, Health

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = (1, 2)
"""Major and minor of the layout that this package writes. It reads every minor of its major."""
_MINORS = {Kind.HEALTH: 2}
"""The minor version that last changed a kind, which is what its messages say: others stay what they were, to the byte,
so that a drive recorded before is still replayed exactly."""
_MINOR = 1
MAX_TOPIC = 48
"""Longest topic [bytes]: a subscription to it must fit the 64 bytes that a publisher takes from a peer."""
MAX_HEADER = 1 << 20
MAX_MESSAGE = MAX_RAW + MAX_HEADER + 4096

_MAGIC = b"PMSK"
# magic, major, minor, kind, encoding, header size, payload size, raw size, width, height, crc, seq, frame seq, stamp
_FIXED = struct.Struct("<4sBBBBIIIHHIQQq")
_CRC_AT = 24  # everything before and after these four bytes is covered by them
_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_TOPIC = re.compile(f"{_NAME}/{_NAME}")
_MSGPACK_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)  # UnicodeDecodeError is a ValueError

_write = msgspec.msgpack.Encoder().encode
_read_header = msgspec.msgpack.Decoder(Header).decode
_read_health = msgspec.msgpack.Decoder(Health).decode


class VersionMismatch(WireError):
    """A message of another major version: nothing after its first six bytes can be trusted."""

    def __init__(self, theirs: tuple[int, int]) -> None:
        self.theirs = theirs
        self.ours = VERSION
        super().__init__(
            f"wire version {theirs[0]}.{theirs[1]}, this reader knows {VERSION[0]}.x: update the older side"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One decoded message. Its pixels stay encoded until they are asked for."""

    topic: str  # camera/name
    kind: Kind
    encoding: str  # one of ENCODINGS
    seq: int  # counts the messages of this topic in this run, from 1
    frame_seq: int  # capture counter of the frame
    stamp_ns: int  # capture time on the clock that header.clock names [ns]
    width: int  # of the mask or image [px]
    height: int
    header: Header
    payload: bytes  # as sent
    raw_size: int  # what it expands to [bytes]

    def mask(self) -> NDArray[Any]:
        """The (height, width) mask: bool for BITS, uint16 for POSITIONS, uint8 for LABELS; perhaps read-only.

        Every value has its row in header.tracks or name in header.classes. Raises WireError for a broken payload.
        """
        if self.kind not in MASKS:
            raise WireError(f"{self.topic}: a message of kind {self.kind.name.lower()} has no mask")
        mask = unpack(self.kind, expand(self.payload, self.encoding, self.raw_size), self.width, self.height)
        if self.kind is Kind.POSITIONS and mask.max() > len(self.header.tracks):
            raise WireError(f"{self.topic}: a position beyond the {len(self.header.tracks)} tracks of the message")
        # adding 1 turns void (255) into 0, so that one maximum checks all the indices
        if self.kind is Kind.LABELS and (mask + mask.dtype.type(1)).max() > len(self.header.classes):
            raise WireError(f"{self.topic}: a label beyond the {len(self.header.classes)} classes of the message")
        return mask

    def image(self) -> NDArray[np.uint8]:
        """The (height, width, 3) RGB camera image. Raises WireError for another kind or a broken payload."""
        if self.kind is not Kind.IMAGE:
            raise WireError(f"{self.topic}: a message of kind {self.kind.name.lower()} has no image")
        return decode_jpeg(self.payload, self.width, self.height)

    def health(self) -> Health:
        """How the node is. Raises WireError for another kind or a broken payload."""
        if self.kind is not Kind.HEALTH:
            raise WireError(f"{self.topic}: a message of kind {self.kind.name.lower()} has no health")
        try:
            return _read_health(self.payload)
        except _MSGPACK_ERRORS as error:
            raise WireError(f"{self.topic}: broken health: {error}") from error


def valid_topic(topic: str) -> bool:
    """Whether this is camera/name, in letters, digits, `_`, `-` and `.`, and short enough to be subscribed to."""
    return len(topic) <= MAX_TOPIC and _TOPIC.fullmatch(topic) is not None


def encode(
    topic: str,
    header: Header,
    kind: Kind,
    content: NDArray[Any] | Health | bytes | None,
    *,
    seq: int,
    frame_seq: int,
    stamp_ns: int,
    encoding: str = "zstd",
    size: tuple[int, int] = (0, 0),
) -> bytes:
    """The bytes of one message. `content` is a mask for a mask's kind, JPEG bytes for IMAGE, Health for HEALTH.

    `size` is width and height of what has no array: of the image, or of the masks that track boxes refer to.
    Raises WireError for a content that can't be sent.
    """
    if not valid_topic(topic):
        raise WireError(f"topic {topic!r}: camera/name of letters, digits, _ - . and at most {MAX_TOPIC} characters")
    if kind in MASKS:
        raw = pack(kind, content)  # type: ignore[arg-type]
        size = (content.shape[1], content.shape[0])  # type: ignore[union-attr]
    else:
        encoding = "raw"
        raw = content if isinstance(content, bytes) else b"" if content is None else _write(content)
    _check_sizes(kind, size[0], size[1], len(raw))
    payload = shrink(raw, encoding)
    extra = _write(header)
    if len(extra) > MAX_HEADER:
        raise WireError(f"{topic}: a header of {len(extra)} bytes: at most {MAX_HEADER}")
    code = ENCODINGS.index(encoding)
    fixed = _FIXED.pack(
        _MAGIC,
        VERSION[0],
        _MINORS.get(kind, _MINOR),
        kind,
        code,
        len(extra),
        len(payload),
        len(raw),
        *size,
        0,
        seq,
        frame_seq,
        stamp_ns,
    )
    front = topic.encode() + b"\0"
    crc = _crc(front + fixed[:_CRC_AT], fixed[_CRC_AT + 4 :], extra, payload)
    return b"".join((front, fixed[:_CRC_AT], struct.pack("<I", crc), fixed[_CRC_AT + 4 :], extra, payload))


def decode(buffer: bytes) -> Message:
    """The message in `buffer`. Raises WireError for anything else, VersionMismatch for another major version."""
    data = bytes(buffer)
    topic, at = _split_topic(data)
    fixed, begin = data[at : at + _FIXED.size], at + _FIXED.size
    if fixed[:4] != _MAGIC or len(fixed) < 6:
        raise WireError(f"{topic}: not a perception message")
    if fixed[4] != VERSION[0]:
        raise VersionMismatch((fixed[4], fixed[5]))
    if len(fixed) < _FIXED.size:
        raise WireError(f"{topic}: cut short in its header, {len(data)} bytes")
    kind, code, extra_size, payload_size, raw_size, width, height, crc, *place = _FIXED.unpack(fixed)[3:]
    if kind >= len(Kind) or code >= len(ENCODINGS):
        raise WireError(f"{topic}: kind {kind} in encoding {code} is not known to version {VERSION[0]}.{VERSION[1]}")
    if extra_size > MAX_HEADER or begin + extra_size + payload_size != len(data):
        raise WireError(f"{topic}: {len(data)} bytes, where its header says {begin + extra_size + payload_size}")
    _check_sizes(Kind(kind), width, height, raw_size)
    if (code == 0 or kind not in MASKS) and (payload_size != raw_size or code != 0):
        raise WireError(f"{topic}: {payload_size} bytes of payload for {raw_size} raw ones")
    extra, payload = data[begin : begin + extra_size], data[begin + extra_size :]
    if crc != _crc(data[: at + _CRC_AT], fixed[_CRC_AT + 4 :], extra, payload):
        raise WireError(f"{topic}: damaged, its checksum does not fit")
    try:
        header = _read_header(extra)
    except _MSGPACK_ERRORS as error:
        raise WireError(f"{topic}: broken header: {error}") from error
    seq, frame_seq, stamp_ns = place
    what = (Kind(kind), ENCODINGS[code])
    return Message(topic, *what, seq, frame_seq, stamp_ns, width, height, header, payload, raw_size)


def _split_topic(data: bytes) -> tuple[str, int]:
    end = data.find(b"\0", 0, MAX_TOPIC + 1)
    topic = data[:end].decode("ascii", "replace") if end > 0 else ""
    if not valid_topic(topic):
        raise WireError(f"a message of {len(data)} bytes that does not begin with a topic")
    return topic, end + 1


def _check_sizes(kind: Kind, width: int, height: int, raw_size: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or raw_size > MAX_RAW:
        raise WireError(f"{width}x{height}, {raw_size} bytes: at most {MAX_SIDE} px a side and {MAX_RAW} bytes")
    if kind in MASKS and (not width or not height or raw_size != raw_bytes(kind, width, height)):
        raise WireError(f"a {kind.name.lower()} mask of {width}x{height} does not have {raw_size} bytes")
    if kind is Kind.TRACKS and raw_size:
        raise WireError(f"a tracks message has no payload, this one has {raw_size} bytes")
    if kind is Kind.HEALTH and raw_size > MAX_HEADER:
        raise WireError(f"a health message of {raw_size} bytes: at most {MAX_HEADER}")


def _crc(*parts: bytes) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc

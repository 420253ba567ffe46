"""Requests to a running node and its replies: msgpack maps, one a message. docs/control.md is the same in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perception.errors import WireError
from perception.wire.pixels import ENCODINGS, MAX_SIDE, Kind, expand, pack, raw_bytes, shrink, unpack
from perception.wire.schema import Box

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONTROL_VERSION = 1
"""Of requests and replies. Fields may be added without a new one; readers ignore those that they do not know."""
MAX_CONTROL = 4 << 20
"""Largest request or reply [bytes]."""
MAX_MASK_PIXELS = 1 << 24
"""Largest mask that a prompt may hold [px]."""
_MSGPACK_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)  # UnicodeDecodeError is a ValueError


class MaskRow(msgspec.Struct, frozen=True):
    """A binary mask of the whole frame at any size, laid out as that of a `bits` message."""

    width: int  # [px]
    height: int
    bits: bytes  # rows from the top, most significant bit first, each row padded to whole bytes
    encoding: str = "raw"  # raw | zstd | lz4


class _Request(msgspec.Struct, frozen=True, tag_field="do", kw_only=True):
    """What every request says."""

    v: int = CONTROL_VERSION


class PromptRequest(_Request, frozen=True, tag="prompt"):
    """Follow what this points at in the newest frame: one of points, box and mask."""

    points: tuple[tuple[float, float], ...] = ()  # x, y [frame px]
    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1, half open [frame px]
    mask: MaskRow | None = None
    class_name: str = ""  # "": of no class of the model
    frame_seq: int | None = None  # the frame that the caller looked at; None: whichever is the newest


class RemoveRequest(_Request, frozen=True, tag="remove"):
    """End a track."""

    track_id: int


class RelabelRequest(_Request, frozen=True, tag="relabel"):
    """Give a track another class."""

    track_id: int
    class_name: str  # "": of no class of the model


class TracksRequest(_Request, frozen=True, tag="tracks"):
    """Tell the tracks that live."""


class SaveRequest(_Request, frozen=True, tag="save"):
    """Save what a recording ring holds of the last seconds, and the next ones."""

    reason: str = ""


class PlayRequest(_Request, frozen=True, tag="play"):
    """Pause, step or move a drive that is being played, and tell where it stands; all at once, also in a pause."""

    pause: bool | None = None  # True: hold the next frame; False: play on; None: as it is
    step: bool = False  # pause, and let one more frame through
    seek_s: float | None = None  # go on from here [s since the drive's begin]
    speed: float | None = None  # times as fast as it was recorded


Request = PromptRequest | RemoveRequest | RelabelRequest | TracksRequest | SaveRequest | PlayRequest


class LiveRow(msgspec.Struct, frozen=True):
    """One track that lives, in the camera's own pixels."""

    id: int
    class_name: str
    state: str  # perception.types.TrackState
    box: Box  # half open [frame px]
    quality: float = 1.0  # predicted IoU of its mask, [0, 1]
    prompted: bool = False


class PlayRow(msgspec.Struct, frozen=True):
    """How a drive is being played."""

    is_paused: bool
    speed: float  # times as fast as it was recorded
    position_s: float  # of the frame that was given last [s since the drive's begin]
    begin_s: float = 0.0  # of the part that is played
    end_s: float | None = None  # its end; None: not known
    is_at_end: bool = False  # all was played; it waits to be moved


class Reply(msgspec.Struct, frozen=True):
    """What became of a request."""

    ok: bool
    error: str = ""  # one line: what is wrong, and how to mend it
    v: int = CONTROL_VERSION
    camera: str = ""
    frame_seq: int | None = None  # the frame that the request was applied to
    track_id: int | None = None  # the new, ended or relabelled track
    box: Box | None = None  # of a new track [frame px]
    tracks: tuple[LiveRow, ...] = ()
    play: PlayRow | msgspec.UnsetType = msgspec.UNSET  # of a drive that is being played; else not there


class _Version(msgspec.Struct):
    v: int


_write = msgspec.msgpack.Encoder().encode
_read_version = msgspec.msgpack.Decoder(_Version).decode
_read_request = msgspec.msgpack.Decoder(Request).decode
_read_reply = msgspec.msgpack.Decoder(Reply).decode


def encode_request(request: Request) -> bytes:
    """Raises WireError for values that msgpack can't hold, and for more than MAX_CONTROL bytes."""
    try:
        data = _write(request)
    except (*_MSGPACK_ERRORS, OverflowError, TypeError) as error:  # integers beyond 64 bits; another type
        raise WireError(f"not a request that can be sent: {error}") from error
    if len(data) > MAX_CONTROL:
        raise WireError(f"a request of {len(data)} bytes: at most {MAX_CONTROL}; send a smaller mask")
    return data


def decode_request(data: bytes) -> Request:
    """The request in `data`. Raises WireError, in one line, for anything else or another version."""
    try:
        _check_version(_read_version(data).v)
        return _read_request(data)
    except _MSGPACK_ERRORS as error:
        raise WireError(f"not a request that this node knows: {error}") from error


def encode_reply(reply: Reply) -> bytes:
    return _write(reply)


def decode_reply(data: bytes) -> Reply:
    """The reply in `data`. Raises WireError for anything else or another version."""
    try:
        _check_version(_read_version(data).v)
        return _read_reply(data)
    except _MSGPACK_ERRORS as error:
        raise WireError(f"not a reply of a node: {error}") from error


def pack_mask(mask: NDArray[np.bool_]) -> MaskRow:
    """A (h, w) mask as a request holds it. Raises WireError for another shape or dtype, or one that is too large."""
    raw = pack(Kind.BITS, mask)
    height, width = mask.shape
    _check_mask_size(width, height)
    return MaskRow(width, height, shrink(raw, "zstd"), "zstd")


def unpack_mask(row: MaskRow) -> NDArray[np.bool_]:
    """The (h, w) mask of a request. Raises WireError, before allocating, for sizes that do not fit."""
    _check_mask_size(row.width, row.height)
    if row.encoding not in ENCODINGS:
        raise WireError(f"a mask in encoding {row.encoding!r}: one of {', '.join(ENCODINGS)}")
    raw = expand(row.bits, row.encoding, raw_bytes(Kind.BITS, row.width, row.height))
    return unpack(Kind.BITS, raw, row.width, row.height)


def _check_version(version: int) -> None:
    if version != CONTROL_VERSION:
        raise WireError(f"control version {version}; this side knows {CONTROL_VERSION}: update the older side")


def _check_mask_size(width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_MASK_PIXELS):
        raise WireError(
            f"a mask of {width}x{height}: 1 to {MAX_SIDE} px a side and at most {MAX_MASK_PIXELS} px; "
            "it stands for the whole frame at any size: send a smaller one"
        )

"""What a recording holds: the channels of its MCAP files, and the rows on those that are ours. docs/drives.md is the
same in words.

Each segment begins with a metadata record that is an `About`; the last one ends with one that is a `Certificate`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from perception.errors import RecordingError

FORMAT = 1
"""Of the rows below. Fields may be added without a new one; readers ignore those that they do not know."""
ABOUT, CERTIFICATE = "perception.recording", "perception.certificate"
"""Names of the two metadata records."""
SUFFIX, ACTIVE = ".mcap", ".mcap.active"
"""Of a segment, and of one that is still being written or was left by a crash."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of an MCAP file."""

    topic: str
    schema: str = ""  # its name; "" for none
    encoding: str = ""  # of the messages: protobuf | json | msgpack | perception | cdr | ros1
    count: int | None = None  # messages in the whole recording, None where no index tells


@dataclass(frozen=True, slots=True)
class Record:
    """One message of an MCAP file."""

    topic: str
    schema: str
    encoding: str
    log_ns: int  # of ours: the capture stamp of the frame that it is about, on the wall clock [ns]
    publish_ns: int  # of ours: when it was published, on the wall clock [ns]
    sequence: int
    data: bytes


def image(camera: str) -> str:
    return f"/{camera}/image"


def calibration(camera: str) -> str:
    return f"/{camera}/calibration"


def image_annotations(camera: str) -> str:
    return f"/{camera}/annotations"


def mask(camera: str, name: str) -> str:
    """A mask topic as a picture for other tools."""
    return f"/{camera}/masks/{name}"


def wire(topic: str) -> str:
    """The messages of a ZeroMQ topic `camera/name`, byte for byte."""
    camera, _, name = topic.partition("/")
    return f"/{camera}/wire/{name}"


def decisions(camera: str) -> str:
    return f"/{camera}/decisions"


def control(camera: str) -> str:
    return f"/{camera}/control"


def state(camera: str) -> str:
    return f"/{camera}/state"


class Machine(msgspec.Struct, frozen=True):
    """The kind of machine: what decides whether two runs can give the same bytes."""

    host: str = ""
    cpu: str = ""
    cores: int = 0
    versions: dict[str, str] = {}  # of python, numpy, opencv, the engine, this package


class About(msgspec.Struct, frozen=True):
    """What a recording says of itself."""

    recording: str  # UUID
    camera: str
    run: str  # UUID of the run whose messages these are
    clock: str  # boot id, or "drive"
    wall_offset_ns: int  # add to a stamp for the log time [ns]; 0 where the clock is a drive's
    format: int = FORMAT
    segment: int = 0
    began_ns: int = 0  # wall clock [ns]
    launch: str = ""  # the whole launch configuration, JSON
    card: str = ""  # the model's card, JSON
    model: str = ""  # its name
    model_id: str = ""  # 16 hex digits over graph and card, as messages say it
    graphs: dict[str, str] = {}  # sha256 of each file of the model, by name
    calibration: str = ""  # the calibration file, TOML
    engine: str = ""
    machine: Machine = Machine()
    source: str = ""  # where the frames came from, without credentials
    drive: str = ""  # of a result: identity of the drive that was replayed
    mode: str = "live"  # live | exact | re-enacted | what-if | converted
    frames: str = "jpeg"  # jpeg | png | raw | none: how images are stored
    is_exact: bool = False  # the network saw the very pixels that the recording gives back
    redaction: str = ""  # what was made unrecognisable in the images, and how, JSON; "" where nothing was


class Decision(msgspec.Struct, frozen=True):
    """What became of one captured frame. Times are on the run's monotonic clock [ns]; 0 where there is none."""

    frame_seq: int
    stamp_ns: int
    what: str  # stepped | failed | dropped | broken
    reason: str = ""  # why, where it was not stepped
    network: bool = False  # the network looked at it; else the propagator alone carried the masks
    engine: str = ""  # which one served
    arrived_ns: int = 0  # at the capture thread
    taken_ns: int = 0  # by the pipeline
    done_ns: int = 0  # its scene was made
    sent_ns: int = 0  # its messages were out
    prompted: bool = False  # the mask of prompted tracks was published because somebody had subscribed to it


class ControlCall(msgspec.Struct, frozen=True):
    """A request on the control socket and the answer, given after a frame was published."""

    frame_seq: int  # of the frame that it was applied to
    stamp_ns: int
    request: bytes  # as perception.wire.control has it
    reply: bytes


class StateRow(msgspec.Struct, frozen=True):
    """The whole state of a node after a frame: what makes the next messages what they are."""

    frame_seq: int  # of the last frame before; -1 where none was
    stamp_ns: int
    steps: int  # frames since the network looked last, that one included
    seqs: dict[str, int]  # of the last message, by topic without its camera
    event_count: int
    events: bytes  # the last ones, msgpack of wire.EventRow
    propagator: bytes  # perception.propagation.snapshot


class Tally(msgspec.Struct, frozen=True):
    """Of one channel."""

    expected: int = 0  # handed to the recorder
    written: int = 0


class Certificate(msgspec.Struct, frozen=True):
    """What a recording should hold and does hold; there only where it was closed in order."""

    reason: str  # why it ended
    ended_ns: int  # wall clock [ns]
    segments: int
    channels: dict[str, Tally]
    captured: int = 0  # frames that the source gave
    stepped: int = 0
    dropped: int = 0
    lost: dict[str, int] = {}  # what is missing, by reason

    @property
    def is_complete(self) -> bool:
        return not self.lost and all(tally.expected == tally.written for tally in self.channels.values())


Row = TypeVar("Row", Decision, ControlCall, StateRow)
_Metadata = TypeVar("_Metadata", bound=msgspec.Struct)


def to_metadata(row: msgspec.Struct) -> dict[str, str]:
    """A row as an MCAP metadata record: one readable text a field, and a checksum, which MCAP itself has not."""
    fields: Mapping[str, Any] = msgspec.to_builtins(row)
    texts = {k: v if isinstance(v, str) else msgspec.json.encode(v).decode() for k, v in fields.items()}
    return {**texts, "crc32": f"{_crc(texts):08x}"}


def from_metadata(texts: Mapping[str, str], kind: type[_Metadata]) -> _Metadata:
    """The row of a metadata record. Raises RecordingError where it is damaged, or of a format that is not known."""
    given = dict(texts)
    if given.pop("crc32", "") != f"{_crc(given):08x}":
        raise RecordingError("its metadata is damaged: the checksum does not fit")
    if int(given.get("format", FORMAT)) != FORMAT:
        raise RecordingError(f"it is of format {given['format']}, this version reads {FORMAT}: use the other version")
    strings = {field.name for field in msgspec.structs.fields(kind) if field.type is str}
    try:
        fields = {k: v if k in strings else msgspec.json.decode(v) for k, v in given.items()}
        return msgspec.convert(fields, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"its metadata can't be read: {error}") from None


def _crc(texts: Mapping[str, str]) -> int:
    return zlib.crc32(msgspec.msgpack.encode(sorted(texts.items())))

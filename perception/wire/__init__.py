"""Scene to bytes and back: the only place that knows the layout. docs/wire.md is the same thing in words."""

from __future__ import annotations

from perception.wire.endpoints import CONTROL_ENDPOINT, MASKS_ENDPOINT
from perception.wire.layout import (
    MAX_MESSAGE,
    MAX_TOPIC,
    VERSION,
    Kind,
    Message,
    VersionMismatch,
    decode,
    encode,
    valid_topic,
)
from perception.wire.pixels import ENCODINGS, MAX_RAW, MAX_SIDE
from perception.wire.schema import EngineRow, EventRow, Header, Health, SourceRow, StageRow, TrackRow

__all__ = [
    "CONTROL_ENDPOINT",
    "ENCODINGS",
    "MASKS_ENDPOINT",
    "MAX_MESSAGE",
    "MAX_RAW",
    "MAX_SIDE",
    "MAX_TOPIC",
    "VERSION",
    "EngineRow",
    "EventRow",
    "Header",
    "Health",
    "Kind",
    "Message",
    "SourceRow",
    "StageRow",
    "TrackRow",
    "VersionMismatch",
    "decode",
    "encode",
    "valid_topic",
]

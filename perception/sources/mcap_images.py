"""Pictures of an MCAP recording: our own, Foxglove's (protobuf, JSON) and those of ROS.

Messages: https://docs.foxglove.dev/docs/sdk/schemas, CompressedImage, RawImage and CompressedVideo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from perception.drives.ending import warn_unclosed
from perception.drives.layout import Channel, Record, image
from perception.drives.recording import Recording, open_recording
from perception.drives.schemas import COMPRESSED_IMAGE, RAW_IMAGE, message_type
from perception.errors import RecordingError, SourceError
from perception.images import decode_image
from perception.sources.bag import COMPRESSED, RAW, ros_parser
from perception.sources.pixels import raw_image
from perception.sources.redact import one_line
from perception.sources.topic import Message, Parse, Picture, Topic, TopicReader
from perception.sources.topic_choice import choose

_VIDEO = "foxglove.CompressedVideo"
_FOXGLOVE = frozenset({COMPRESSED_IMAGE, RAW_IMAGE, _VIDEO})
_SEQUENCES = 1 << 32  # MCAP's sequence numbers wrap there


def open_mcap(path: Path, topic: str) -> TopicReader:
    """The pictures of one topic of an MCAP file or of a folder of segments.

    `topic` "" takes the only image topic; of our own recordings, the camera's. There the place of a picture is its
    recorded sequence, and its stamp the log time, both since the first picture. One that lacks its end is played as far
    as it goes, with a warning.

    Raises:
        SourceError: it can't be read, or it is not clear which topic is meant, or no picture in it can be decoded.
    """
    try:
        with closing(open_recording(path)) as recording:
            reader = _reader(path, recording, topic)
            warn_unclosed(recording)
            return reader
    except RecordingError as error:
        raise SourceError(str(error)) from None


def _reader(path: Path, recording: Recording, topic: str) -> TopicReader:
    channels, about = recording.channels, recording.about
    own = image(about.camera) if about else ""
    if own and not topic and own not in channels:
        raise SourceError(f"{path}: recorded without pictures: give the drive whose masks it holds, or choose a topic")
    kinds = {name: " ".join(filter(None, (c.schema, c.encoding))) for name, c in channels.items()}
    chosen = choose(str(path), topic or own, {n: c.count for n, c in channels.items() if _holds_pictures(c)}, kinds)
    name = f"{path}: {chosen}"
    return TopicReader(
        Topic(
            name=name,
            messages=_since_first(path, chosen) if chosen == own else partial(_in_order, path, chosen),
            parser=partial(_parser, channels[chosen], name),
            files=recording.segments,
            key=chosen,
            is_chained=channels[chosen].schema == _VIDEO,
            is_seekable=chosen == own,
            length_ns=max(0, recording.end_ns - recording.begin_ns),
        )
    )


def _holds_pictures(channel: Channel) -> bool:
    match channel.encoding:
        case "protobuf" | "json":
            return channel.schema in _FOXGLOVE
        case "cdr" | "ros1":
            return _ros_kind(channel.schema) in (COMPRESSED, RAW)
    return False


def _ros_kind(schema: str) -> str:
    """ROS 2's name of a message type, which ROS 1 writes without the middle."""
    return schema if "/msg/" in schema else schema.replace("/", "/msg/", 1)


def _records(path: Path, topic: str, begin_ns: int | None = None) -> Iterator[Record]:
    try:
        with closing(open_recording(path)) as recording:
            yield from recording.messages([topic], begin_ns)
    except RecordingError as error:
        raise SourceError(str(error)) from None


def _in_order(path: Path, topic: str, _: int) -> Iterator[Message]:
    """Messages of another's recording: their sequences may mean anything."""
    for record in _records(path, topic):
        yield Message(record.log_ns, record.data)


def _since_first(path: Path, topic: str) -> Callable[[int], Iterator[Message]]:
    """Messages of our own recording: log times and sequences count from the first of the topic."""
    first = next(_records(path, topic), None)

    def messages(begin_ns: int) -> Iterator[Message]:
        if first is None:
            return
        for record in _records(path, topic, first.log_ns + begin_ns if begin_ns else None):
            place = (record.sequence - first.sequence) % _SEQUENCES
            yield Message(record.log_ns - first.log_ns, record.data, place)

    return messages


def _parser(channel: Channel, name: str) -> Parse:
    if channel.encoding in ("cdr", "ros1"):
        return ros_parser(_ros_kind(channel.schema), name, is_ros1=channel.encoding == "ros1")
    unpack = _from_protobuf(channel.schema) if channel.encoding == "protobuf" else _from_json
    decode = _decoder(channel.schema, name)

    def parse(data: bytes) -> Picture:
        try:
            message = unpack(data)
        except (ValueError, msgspec.MsgspecError) as error:
            raise SourceError(f"{name}: a message can't be read: {one_line(str(error))}") from None
        encoded = (lambda: message.data) if channel.schema == COMPRESSED_IMAGE else bytes
        return Picture(message.stamp_ns, lambda: decode(message), encoded)

    return parse


class _Time(msgspec.Struct):
    sec: int = 0
    nsec: int = 0


class _Fields(msgspec.Struct):
    """What the three messages hold together, as Foxglove's JSON has it; bytes are base64 there."""

    data: bytes
    timestamp: _Time = msgspec.field(default_factory=_Time)
    format: str = ""
    encoding: str = ""
    width: int = 0
    height: int = 0
    step: int = 0

    @property
    def stamp_ns(self) -> int:
        return self.timestamp.sec * 10**9 + self.timestamp.nsec


_from_json = msgspec.json.Decoder(_Fields).decode


def _from_protobuf(schema: str) -> Callable[[bytes], _Fields]:
    from google.protobuf.message import DecodeError

    kind, names = message_type(schema), ("format", "encoding", "width", "height", "step")

    def unpack(data: bytes) -> _Fields:
        message: Any = kind()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise ValueError(str(error)) from None
        stamp = _Time(message.timestamp.seconds, message.timestamp.nanos)
        return _Fields(message.data, stamp, **{n: getattr(message, n) for n in names if hasattr(message, n)})

    return unpack


def _decoder(schema: str, name: str) -> Callable[[_Fields], Any]:
    if schema == RAW_IMAGE:
        return lambda m: raw_image(m.encoding, (m.width, m.height), m.step, m.data, name)
    if schema == _VIDEO:
        from perception.sources.video_messages import VideoMessages

        video = VideoMessages(name)
        return lambda m: video.decode(m.format, m.data)
    return lambda m: decode_image(m.data, name)

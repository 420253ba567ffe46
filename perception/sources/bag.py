"""ROS 2 and ROS 1 bags, through `rosbags`: no ROS is needed.

Messages: sensor_msgs/Image and sensor_msgs/CompressedImage, https://docs.ros.org/en/rolling/p/sensor_msgs/.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.errors import SourceError
from perception.images import decode_image
from perception.sources.pixels import raw_image
from perception.sources.redact import one_line
from perception.sources.topic import Message, Parse, Picture, Topic, TopicReader
from perception.sources.topic_choice import choose

if TYPE_CHECKING:
    from rosbags.rosbag1 import Reader as Reader1
    from rosbags.rosbag2 import Reader as Reader2

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_ROS1 = b"#ROSBAG V"
_STORED = frozenset({".bag", ".db3", ".mcap", ".zstd"})


def open_bag(path: Path, topic: str) -> TopicReader:
    """The pictures of one topic of a bag; `topic` "" takes the only one.

    Args:
        path: a .bag or .db3 file, or a folder with a metadata.yaml.
        topic: like /cam/image_raw.

    Raises:
        SourceError: rosbags is not installed, the bag can't be read, or it is not clear which topic is meant.
    """
    require_rosbags(str(path))
    with _opened(path) as reader:
        kinds = {name: info.msgtype or "" for name, info in reader.topics.items()}
        counts = {name: info.msgcount for name, info in reader.topics.items()}
        length_ns = max(0, reader.duration)
    pictures = {name: counts[name] for name, kind in kinds.items() if kind in (RAW, COMPRESSED)}
    is_ros1 = _is_ros1(path)
    chosen = choose(str(path), topic, pictures, kinds)
    name = f"{path}: {chosen}"
    kind = kinds[chosen]
    return TopicReader(
        Topic(
            name=name,
            messages=lambda _: _messages(path, chosen),
            parser=lambda: ros_parser(kind, name, is_ros1=is_ros1),
            files=_files(path),
            key=chosen,
            length_ns=length_ns,
        )
    )


def ros_parser(kind: str, name: str, *, is_ros1: bool) -> Parse:
    """Takes messages of this type apart, serialised by ROS 1 or as CDR.

    Raises:
        SourceError: rosbags is not installed.
    """
    require_rosbags(name)
    deserialize = _deserializer(is_ros1)

    def parse(data: bytes) -> Picture:
        try:
            message: Any = deserialize(data, kind)
            stamp = message.header.stamp
            stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        except Exception as error:  # a zoo: struct.error, SerdeError, UnicodeDecodeError, ...
            raise SourceError(
                f"{name}: a message can't be read: {type(error).__name__}: {one_line(str(error))}"
            ) from None
        if kind == COMPRESSED:
            return Picture(stamp_ns, lambda: decode_image(message.data.tobytes(), name), message.data.tobytes)
        size = (message.width, message.height)
        return Picture(stamp_ns, lambda: raw_image(message.encoding, size, message.step, message.data, name))

    return parse


def require_rosbags(name: str) -> None:
    """Raises SourceError, with what to do, when rosbags is not installed."""
    if importlib.util.find_spec("rosbags") is None:
        raise SourceError(f"{name}: ROS messages are read by rosbags: pip install 'perception-node[ros]'")


@cache
def _deserializer(is_ros1: bool) -> Callable[[bytes, str], object]:
    from rosbags.typesys import Stores, get_typestore

    # image messages have been the same in every ROS of their generation
    store = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.LATEST)
    return store.deserialize_ros1 if is_ros1 else store.deserialize_cdr


@contextmanager
def _opened(path: Path) -> Iterator[Reader1 | Reader2]:
    """The bag, open; what goes wrong inside is a SourceError. Types of other topics are not looked at."""
    from rosbags.rosbag1 import Reader as Reader1
    from rosbags.rosbag2 import Reader as Reader2

    _require_content(path)
    try:
        with Reader1(path) if _is_ros1(path) else Reader2(path) as reader:
            yield reader
    except SourceError:
        raise
    except Exception as error:  # readers of damaged bags raise whatever comes, KeyError and apsw's own among them
        reason = one_line(str(error)) or type(error).__name__
        raise SourceError(f"{path}: not a bag that can be read, or damaged or cut off: {reason}") from None


def _is_ros1(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_ROS1)) == _ROS1 or path.suffix == ".bag"


def _messages(path: Path, topic: str) -> Iterator[Message]:
    with _opened(path) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        for _, log_ns, data in reader.messages(connections=connections):
            yield Message(log_ns, bytes(data))


def _require_content(path: Path) -> None:
    """rosbags would open an empty file as a bag without topics."""
    files = _files(path)
    if not files or not any(file.stat().st_size for file in files):
        raise SourceError(f"{path}: the bag is empty: give one with messages in it")


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    return tuple(sorted(file for file in path.iterdir() if file.suffix in _STORED and file.is_file()))

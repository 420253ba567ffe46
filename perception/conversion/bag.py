"""A recording as a ROS 2 bag, through `rosbags`: no ROS is needed.

Messages: sensor_msgs/CompressedImage and sensor_msgs/Image, https://docs.ros.org/en/rolling/p/sensor_msgs/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perception.conversion.outputs import Progress, no_progress, unfinished
from perception.conversion.pictures import recorded_bytes, viewable
from perception.conversion.reading import RecordedFrame, open_drive, recorded_frames
from perception.drives.frames import image_of
from perception.errors import RecordingError
from perception.sources.bag import COMPRESSED, RAW, require_rosbags
from perception.wire.pixels import MASKS

if TYPE_CHECKING:
    from rosbags.rosbag2 import Writer

KINDS = frozenset({".mcap", ".db3", ".yaml"})
_VERSION = 9  # of the bag's metadata: the newest that rosbags writes, read from ROS 2 Iron on


@dataclass(slots=True)
class BagDone:
    """What was written: messages by topic."""

    messages: dict[str, int] = field(default_factory=dict)
    left_out: int = 0  # images that can't be decoded


def write_bag(drive: Path, out: Path, *, force: bool = False, progress: Progress = no_progress) -> BagDone:
    """Write a folder that ROS 2 plays: /CAMERA/image/compressed, or /CAMERA/image of bare pixels, and
    /CAMERA/masks/TOPIC as mono8 (0 and 255, or class indices) or mono16 (positions). Stamps are the log times.

    Raises:
        RecordingError: the drive can't be read, or `out` is there already.
        SourceError: rosbags is not installed.
    """
    require_rosbags(str(out))
    from rosbags.rosbag2 import StoragePlugin, Writer

    opened = open_drive(drive)
    done = BagDone()
    with (
        unfinished(out, force, KINDS) as part,
        Writer(part, version=_VERSION, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        bag = _Bag(writer, opened.about.camera, done)
        for n, frame in enumerate(recorded_frames(opened), 1):
            _write(bag, frame, frame.stamp_ns + opened.about.wall_offset_ns)
            progress("frames", n, max(n, opened.frames))
    if not done.messages:
        raise RecordingError(f"{drive}: neither images nor masks in it")
    return done


def _write(bag: _Bag, frame: RecordedFrame, log_ns: int) -> None:
    if frame.image:
        form, data = recorded_bytes(frame.image)
        if data:
            bag.put_compressed("image/compressed", form, data, log_ns)
        elif (picture := image_of(frame.image)) is not None:
            bag.put_raw("image", "rgb8", picture, log_ns)
        else:
            bag.done.left_out += 1
    for name, message in frame.messages.items():
        if message.kind in MASKS:
            mask = viewable(message)
            bag.put_raw(f"masks/{name}", "mono16" if mask.dtype == np.uint16 else "mono8", mask, log_ns)


class _Bag:
    def __init__(self, writer: Writer, camera: str, done: BagDone) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._writer, self._camera, self.done = writer, camera, done
        self._store = get_typestore(Stores.LATEST)
        self._connections: dict[str, Any] = {}

    def put_compressed(self, name: str, form: str, data: bytes, log_ns: int) -> None:
        message = self._store.types[COMPRESSED](self._header(log_ns), form, np.frombuffer(data, np.uint8))
        self._put(name, COMPRESSED, message, log_ns)

    def put_raw(self, name: str, encoding: str, pixels: NDArray[Any], log_ns: int) -> None:
        height, width = pixels.shape[:2]
        little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
        data = np.frombuffer(little.tobytes(), np.uint8)
        message = self._store.types[RAW](self._header(log_ns), height, width, encoding, 0, len(data) // height, data)
        self._put(name, RAW, message, log_ns)

    def _put(self, name: str, kind: str, message: Any, log_ns: int) -> None:
        topic = f"/{self._camera}/{name}"
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
        self._writer.write(self._connections[topic], log_ns, self._store.serialize_cdr(message, kind))
        self.done.messages[topic] = self.done.messages.get(topic, 0) + 1

    def _header(self, log_ns: int) -> Any:
        stamp = self._store.types["builtin_interfaces/msg/Time"](log_ns // 10**9, log_ns % 10**9)
        return self._store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=self._camera)

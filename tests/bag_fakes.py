"""Bags and MCAP files with pictures in them, written by other people's writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from tests.source_fakes import HEIGHT, WIDTH, picture

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install 'perception-node[ros]'")

from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

BEGIN_NS = 1_700_000_000_000_000_000
ROS2, ROS1 = get_typestore(Stores.LATEST), get_typestore(Stores.ROS1_NOETIC)
COMPRESSED, RAW, IMU = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image", "std_msgs/msg/String"

Row = tuple[int, int, Any]
"""Log time and header stamp, both since BEGIN_NS (a stamp of None is 0) [ns], and the message's maker."""


def header(store: Any, stamp_ns: int | None) -> Any:
    whole = 0 if stamp_ns is None else BEGIN_NS + stamp_ns
    time = store.types["builtin_interfaces/msg/Time"](whole // 10**9, whole % 10**9)
    more = {"seq": 0} if store is ROS1 else {}
    return store.types["std_msgs/msg/Header"](stamp=time, frame_id="cam", **more)


def compressed(store: Any, stamp_ns: int | None, data: bytes) -> Any:
    return store.types[COMPRESSED](header(store, stamp_ns), "jpeg", np.frombuffer(data, np.uint8))


def raw(store: Any, stamp_ns: int | None, encoding: str, size: tuple[int, int], data: bytes, step: int = 0) -> Any:
    step = step or len(data) // size[1]
    return store.types[RAW](header(store, stamp_ns), size[1], size[0], encoding, 0, step, np.frombuffer(data, np.uint8))


def jpegs(store: Any, stamps_ns: Sequence[int | None], size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[Any]:
    """Messages whose red rises."""
    return [compressed(store, ns, picture(".jpg", *size, value=20 + 10 * i)) for i, ns in enumerate(stamps_ns)]


def write_bag(path: Path, topics: Mapping[str, Sequence[Any]], kind: str = "sqlite3", period_ns: int = 10**8) -> Path:
    """A bag of "sqlite3", "mcap" or "ros1" messages; message i of a topic is recorded 5 ms after i periods."""
    if kind == "ros1":
        store, serialize, writer = ROS1, ROS1.serialize_ros1, Writer1(path)
    else:
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        store, serialize, writer = ROS2, ROS2.serialize_cdr, Writer2(path, version=9, storage_plugin=plugin)
    with writer:
        for topic, messages in topics.items():
            name = messages[0].__msgtype__
            connection = writer.add_connection(topic, name, typestore=store)
            for i, message in enumerate(messages):
                writer.write(connection, BEGIN_NS + 5_000_000 + i * period_ns, serialize(message, name))
    return path


def write_mcap(path: Path, channels: Mapping[str, tuple[str, str, Sequence[bytes]]], period_ns: int = 10**8) -> Path:
    """An MCAP file; a channel is topic: (schema, encoding, messages); message i is recorded after i periods."""
    with path.open("wb") as file:
        writer = McapWriter(file, compression=CompressionType.LZ4)
        writer.start()
        for topic, (schema, encoding, messages) in channels.items():
            schema_id = writer.register_schema(schema, "", b"") if schema else 0
            channel = writer.register_channel(topic, encoding, schema_id)
            for i, data in enumerate(messages):
                log_ns = BEGIN_NS + i * period_ns
                writer.add_message(channel, log_time=log_ns, publish_time=log_ns, data=data, sequence=0)
        writer.finish()
    return path

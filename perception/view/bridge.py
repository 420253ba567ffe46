"""A node's scenes in Foxglove's app: a WebSocket server of foxglove-sdk that is fed by a subscriber.

https://docs.foxglove.dev/docs/sdk has the server; the messages are those that recordings hold, of Foxglove's schemas.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import foxglove
import msgspec
from foxglove import Channel, Schema

from perception.client import Received, age_of
from perception.drives import layout
from perception.drives.foxglove import Place, picture_of_message
from perception.drives.layout import Record
from perception.drives.schemas import COMPRESSED_IMAGE, IMAGE_ANNOTATIONS, RAW_IMAGE, message_type, schema_of
from perception.errors import EndpointError, WireError
from perception.view.feed import Feed, SeenCamera
from perception.view.frames import SeenFrame
from perception.wire import Health, Kind

DEFAULT_PORT = 8765
"""Where Foxglove's app looks first."""
_BACKLOG = 16  # messages that wait for a slow client: the oldest are dropped
_WAIT_S = 0.1
_HEALTH = msgspec.json.schema_components([Health])[1]["Health"]


class Bridge:
    """Shows the cameras of one endpoint to Foxglove clients.

    Pictures and masks are taken from the node, and made into Foxglove's messages, only while a client wants them.
    """

    def __init__(
        self, endpoint: str, host: str, port: int, server_key: Path | None = None, client_key: Path | None = None
    ) -> None:
        """Raises EndpointError for an endpoint or key that can't be, or an address that is taken."""
        self._news = threading.Event()
        self._context = foxglove.Context()
        self._channels: dict[str, Channel] = {}
        self._shown: dict[str, object] = {}  # the last frame and health, by camera
        self._places: dict[str, tuple[SeenFrame, tuple[int, int]]] = {}  # the last frame and its times, by camera
        self._feed = Feed(endpoint, self._news.set, server_key, client_key)
        try:
            self._server = foxglove.start_server(
                name="perception", host=host, port=port, context=self._context, message_backlog_size=_BACKLOG
            )
        except Exception as error:  # the SDK raises its own kinds, without a common base that it exports
            self._feed.close()
            raise EndpointError(f"{host}:{port}: {_reason(error)}: give another --port or --host") from None

    @property
    def port(self) -> int:
        return self._server.port

    def run(self, stop: threading.Event, say: Callable[[str], None]) -> None:
        """Until `stop` is set; `say` is told what is wrong with the endpoint."""
        self._feed.start()
        problem = ""
        while not stop.is_set():
            self._news.wait(_WAIT_S)
            self._news.clear()
            if self._feed.problem != problem and (problem := self._feed.problem):
                say(problem)
            for camera in list(self._feed.cameras.values()):
                self._show(camera)

    def close(self) -> None:
        self._feed.close()
        self._server.stop()

    def _show(self, camera: SeenCamera) -> None:
        name = camera.name
        image, boxes = self._image(name), self._channel(layout.image_annotations(name), IMAGE_ANNOTATIONS)
        masks = [self._channel(layout.mask(name, topic), RAW_IMAGE) for topic in camera.topics]
        camera.looked_at = any(channel.has_sinks() for channel in (image, boxes, *masks))
        health = self._health(name)
        if camera.health is not None and self._is_new(f"{name} health", camera.health):
            health.log(msgspec.json.encode(camera.health), log_time=time.time_ns())
        frame = camera.frame
        if frame is None or not camera.looked_at or not self._is_new(f"{name} frame", (frame, len(frame.messages))):
            return
        messages = list(frame.messages.values())
        shown, at = self._places.get(name, (None, (0, 0)))
        if shown is not frame:  # the rest of its messages, which may come later, is of the same time
            at = _captured_and_now_ns(messages[0])
            self._places[name] = (frame, at)
        for message in messages:
            self._send(message, Place(*at, message.seq))

    def _is_new(self, key: str, what: object) -> bool:
        is_new, self._shown[key] = self._shown.get(key) != what, what
        return is_new

    def _send(self, message: Received, place: Place) -> None:
        try:
            if message.kind is Kind.IMAGE:
                record = _picture(message, place)
            else:
                record = picture_of_message(_on_picture(message), place)
        except WireError:  # bad pixels make no picture; the next frame may
            return
        if record is not None:
            channel = self._channel(record.topic, record.schema)
            if channel.has_sinks():
                channel.log(record.data, log_time=record.log_ns)

    def _image(self, camera: str) -> Channel:
        return self._channel(layout.image(camera), COMPRESSED_IMAGE)

    def _health(self, camera: str) -> Channel:
        schema = Schema(name="perception.Health", encoding="jsonschema", data=msgspec.json.encode(_HEALTH))
        return self._made(f"/{camera}/health", "json", schema)

    def _channel(self, topic: str, schema: str) -> Channel:
        encoding, data = schema_of(schema)
        return self._made(topic, "protobuf", Schema(name=schema, encoding=encoding, data=data))

    def _made(self, topic: str, encoding: str, schema: Schema) -> Channel:
        if topic not in self._channels:
            self._channels[topic] = Channel(topic, schema=schema, message_encoding=encoding, context=self._context)
        return self._channels[topic]


def _reason(error: Exception) -> str:
    text = str(error).lower()
    return "address already in use" if "already in use" in text else text


def _captured_and_now_ns(message: Received) -> tuple[int, int]:
    """When its frame was captured, and now, on this host's wall clock [ns]; where the first can't be told, now."""
    now_ns = time.time_ns()
    age_s = age_of(message, message.clocks, time.monotonic_ns(), now_ns)[0]
    return now_ns - round((age_s or 0.0) * 1e9), now_ns


def _picture(message: Received, place: Place) -> Record:
    camera = message.topic.partition("/")[0]
    told: Any = message_type(COMPRESSED_IMAGE)(frame_id=camera, data=message.payload, format="jpeg")
    told.timestamp.FromNanoseconds(place.log_ns)
    data = told.SerializeToString()
    return Record(layout.image(camera), COMPRESSED_IMAGE, "protobuf", place.log_ns, place.publish_ns, message.seq, data)


def _on_picture(message: Received) -> Received:
    """The message as if the camera's image were of the masks' size, as the picture on the wire is."""
    size = (message.width, message.height)
    header = msgspec.structs.replace(message.header, roi=(0, 0, *size), frame_width=size[0], frame_height=size[1])
    return replace(message, header=header)

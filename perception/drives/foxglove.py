"""Images, masks, boxes and calibration as messages of Foxglove's schemas, in protobuf.

https://docs.foxglove.dev/docs/sdk/schemas says what the fields mean. Foxglove and Rerun show these without us.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.drives import layout
from perception.drives.layout import Record
from perception.drives.pictures import encode_picture
from perception.drives.schemas import (
    CAMERA_CALIBRATION,
    COMPRESSED_IMAGE,
    IMAGE_ANNOTATIONS,
    RAW_IMAGE,
    message_type,
)
from perception.geometry import Camera
from perception.types import TrackState
from perception.wire import Kind, Message, TrackRow, decode

_VISIBLE = (TrackState.TENTATIVE, TrackState.CONFIRMED)
_GOLDEN = 0.618034  # hues that far apart differ for neighbouring ids
_THICK, _THIN, _FONT = 3.0, 1.0, 14.0  # [px]


@dataclass(frozen=True, slots=True)
class Place:
    """When a message is of, and when it was published: wall clock [ns]."""

    log_ns: int
    publish_ns: int
    sequence: int


def image_record(
    camera: str, image: NDArray[np.uint8], form: str, quality: int, place: Place, encoded: bytes | None = None
) -> Record:
    """An (h, w, 3) RGB image as "jpeg", "png" or "raw"; `encoded` is it in that form, where it is known already."""
    data = encode_picture(image, form, quality) if encoded is None else encoded
    if form == "raw":
        height, width = image.shape[:2]
        return _raw_record(layout.image(camera), camera, (width, height), "rgb8", data, place)
    message = message_type(COMPRESSED_IMAGE)(frame_id=camera, data=data, format=form)
    return _record(layout.image(camera), COMPRESSED_IMAGE, message, place)


def picture_of(wire: Record) -> Record | None:
    """What other tools can show of a wire message: its mask or the boxes of its tracks; None for the other kinds.

    A `bits` mask is mono8 with 0 and 255, `labels` mono8 with the class indices, `positions` mono16.
    Raises WireError for a message that can't be decoded.
    """
    return picture_of_message(decode(wire.data), Place(wire.log_ns, wire.publish_ns, wire.sequence))


def picture_of_message(message: Message, place: Place) -> Record | None:
    """As `picture_of`, of a message that is decoded already. Raises WireError for one whose pixels can't be."""
    camera, _, name = message.topic.partition("/")
    if message.kind is Kind.TRACKS and name == "tracks":
        return _record(layout.image_annotations(camera), IMAGE_ANNOTATIONS, _annotations(message, place.log_ns), place)
    if message.kind not in (Kind.BITS, Kind.LABELS, Kind.POSITIONS):
        return None
    mask, encoding = message.mask(), "mono8"
    if message.kind is Kind.BITS:
        mask = np.negative(mask.view(np.uint8))
    elif message.kind is Kind.POSITIONS:
        encoding = "mono16"
    size = (message.width, message.height)
    return _raw_record(layout.mask(camera, name), camera, size, encoding, mask.tobytes(), place)


def picture_topic(wire: Record) -> str:
    """The topic of `picture_of(wire)`, "" where there is none. Raises WireError as that does."""
    message = decode(wire.data)
    camera, _, name = message.topic.partition("/")
    if message.kind is Kind.TRACKS:
        return layout.image_annotations(camera) if name == "tracks" else ""
    return layout.mask(camera, name) if message.kind in (Kind.BITS, Kind.LABELS, Kind.POSITIONS) else ""


def calibration_record(name: str, camera: Camera, place: Place) -> Record:
    """The calibration of the camera called `name`, in pixels of its images."""
    projection = np.concatenate([camera.K, np.zeros((3, 1))], axis=1)
    message = message_type(CAMERA_CALIBRATION)(
        frame_id=name,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        D=camera.distortion.tolist(),
        K=camera.K.ravel().tolist(),
        R=np.eye(3).ravel().tolist(),
        P=projection.ravel().tolist(),
    )
    message.timestamp.FromNanoseconds(place.log_ns)
    return _record(layout.calibration(name), CAMERA_CALIBRATION, message, place)


def _annotations(message: Message, log_ns: int) -> Any:
    """A box and a label for each visible track: thick where the network saw it in this frame, thin where not."""
    found = message_type(IMAGE_ANNOTATIONS)()
    header = message.header
    x, y, width, height = header.roi
    scale = (width / max(1, message.width), height / max(1, message.height))
    for row in header.tracks:
        if row.state in _VISIBLE:
            x0, y0, x1, y1 = row.box
            box = (x + x0 * scale[0], y + y0 * scale[1], x + x1 * scale[0], y + y1 * scale[1])
            _add_track(found, row, box, log_ns)
    return found


def _add_track(found: Any, row: TrackRow, box: tuple[float, float, float, float], log_ns: int) -> None:
    x0, y0, x1, y1 = box
    r, g, b = colorsys.hsv_to_rgb(row.id * _GOLDEN % 1.0, 0.9, 1.0)
    points = found.points.add(thickness=_THICK if row.observed else _THIN)
    points.timestamp.FromNanoseconds(log_ns)
    points.type = points.LINE_LOOP
    colour = points.outline_color
    colour.r, colour.g, colour.b, colour.a = r, g, b, 1.0
    for px, py in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        points.points.add(x=px, y=py)
    text = found.texts.add(text=f"{row.class_name} {row.id}", font_size=_FONT)
    text.timestamp.CopyFrom(points.timestamp)
    text.position.x, text.position.y = x0, y0
    text.text_color.CopyFrom(colour)
    text.background_color.a = 0.6


def _raw_record(topic: str, camera: str, size: tuple[int, int], encoding: str, data: bytes, place: Place) -> Record:
    width, height = size
    message = message_type(RAW_IMAGE)(
        frame_id=camera, width=width, height=height, encoding=encoding, step=len(data) // height, data=data
    )
    return _record(topic, RAW_IMAGE, message, place)


def _record(topic: str, schema: str, message: Any, place: Place) -> Record:
    if schema in (COMPRESSED_IMAGE, RAW_IMAGE):
        message.timestamp.FromNanoseconds(place.log_ns)
    data = message.SerializeToString()
    return Record(topic, schema, "protobuf", place.log_ns, place.publish_ns, place.sequence, data)

"""The camera's images in a recording, decoded ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.drives import layout
from perception.drives.layout import Record
from perception.drives.recording import Recording
from perception.drives.schemas import COMPRESSED_IMAGE, RAW_IMAGE, message_type
from perception.errors import RecordingError, SourceError
from perception.images import decode_image

DEPTH = 4  # frames decoded ahead


@dataclass(frozen=True, slots=True, eq=False)
class StoredFrame:
    """One image of a recording."""

    seq: int
    stamp_ns: int  # on the clock of the run [ns]
    image: NDArray[np.uint8] | None  # (h, w, 3) RGB; None where it can't be decoded


def stored_frames(
    recording: Recording,
    is_wanted: Callable[[int], bool] = lambda seq: True,
    begin_ns: int | None = None,
    end_ns: int | None = None,
) -> Iterator[StoredFrame]:
    """The images of one of our recordings whose seq is wanted, in order; stamps are in [begin_ns, end_ns).

    Raises:
        RecordingError: it is not ours, holds no images, or is damaged.
    """
    about = recording.about
    if about is None:
        raise RecordingError(f"{recording.path}: not a recording of perception's: play it as a source")
    topic, offset = layout.image(about.camera), about.wall_offset_ns
    if topic not in recording.channels:
        raise RecordingError(
            f"{recording.path}: it holds no images, as a result or with frames = none: give a drive with images"
        )
    log = [None if ns is None else ns + offset for ns in (begin_ns, end_ns)]
    records = (r for r in recording.messages({topic}, *log) if is_wanted(r.sequence))
    with ThreadPoolExecutor(1, "decode") as pool:
        ahead: deque[Future[StoredFrame]] = deque()
        for record in records:
            ahead.append(pool.submit(_decoded, record, offset))
            if len(ahead) >= DEPTH:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decoded(record: Record, offset_ns: int) -> StoredFrame:
    return StoredFrame(record.sequence, record.log_ns - offset_ns, image_of(record))


def image_of(record: Record) -> NDArray[np.uint8] | None:
    """(h, w, 3) RGB of a foxglove.CompressedImage or RawImage (rgb8); None where it can't be decoded."""
    from google.protobuf.message import DecodeError

    if record.schema not in (COMPRESSED_IMAGE, RAW_IMAGE):
        return None
    try:
        message = message_type(record.schema).FromString(record.data)
    except DecodeError:
        return None
    if record.schema == RAW_IMAGE:
        return _raw(message)
    try:
        return decode_image(message.data, "image")
    except SourceError:
        return None


def _raw(message: Any) -> NDArray[np.uint8] | None:
    width, height, data = message.width, message.height, message.data
    if message.encoding != "rgb8" or message.step != 3 * width or len(data) != 3 * width * height:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)

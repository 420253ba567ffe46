"""A recording as a folder of pictures with their stamps, which is a drive of its own; on request with its masks."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.conversion.outputs import Progress, no_progress, unfinished
from perception.conversion.reading import RecordedFrame, open_drive, recorded_frames
from perception.drives.frames import image_of
from perception.drives.layout import Record
from perception.drives.pictures import encode_picture
from perception.drives.schemas import COMPRESSED_IMAGE, message_type
from perception.errors import RecordingError
from perception.images import image_size
from perception.opencv import cv2
from perception.wire import Kind, Message
from perception.wire.pixels import MASKS

KINDS = frozenset({".jpg", ".png", ".csv", ".json", ".jsonl"})
"""Suffixes of all that is written."""
FORMATS = {"": "", "jpg": "jpeg", "png": "png"}
_SUFFIXES = {"jpeg": ".jpg", "png": ".png"}
_QUALITY = 95


@dataclass(frozen=True, slots=True)
class PictureWishes:
    """Which pictures of a drive, and how.

    Args:
        begin_s, end_s: part of the drive, since its first frame [s].
        every: only every n-th frame.
        form: "jpg" or "png"; "": as recorded, where pixels without a format become PNG.
        masks: also each mask topic as PNG, and the tracks.
    """

    begin_s: float = 0.0
    end_s: float | None = None
    every: int = 1
    form: str = ""
    masks: bool = False


@dataclass(slots=True)
class PicturesDone:
    """What was written."""

    frames: int = 0
    left_out: int = 0  # frames whose image can't be decoded
    masks: Counter[str] = field(default_factory=Counter)  # by topic


def write_pictures(
    drive: Path, out: Path, wishes: PictureWishes, *, force: bool = False, progress: Progress = no_progress
) -> PicturesDone:
    """Write the camera's pictures as `out`/SEQ.jpg or .png, the recorded bytes themselves where the format allows.

    stamps.csv beside them has a line `stamp_ns,filename` for each, so that the folder is a drive; frames.csv has seq,
    stamp and log time. Masks are masks/TOPIC/SEQ.png: 0 and 255, class indices (classes.json has their names), or
    16 bit positions (ids.jsonl has the track of each); tracks.jsonl has all the tracks of each frame.

    Raises:
        RecordingError: the drive can't be read, holds no images, or `out` is there already.
    """
    if wishes.form not in FORMATS or wishes.every < 1:
        raise RecordingError(
            f"format {wishes.form!r}, every {wishes.every}: give jpg or png, and every frame from 1 on"
        )
    opened = open_drive(drive, wishes.begin_s, wishes.end_s)
    if not opened.has_images and not wishes.masks:
        raise RecordingError(f"{drive}: it holds no images: give the drive that it is a result of, or --masks")
    done = PicturesDone()
    with unfinished(out, force, KINDS) as part:
        part.mkdir()
        with contextlib.closing(_Folder(part, FORMATS[wishes.form])) as folder:
            for n, frame in enumerate(recorded_frames(opened, None if wishes.masks else ())):
                if n % wishes.every == 0:
                    _write(folder, frame, opened.about.wall_offset_ns, done)
                progress("frames", n + 1, max(n + 1, opened.frames))
    return done


def _write(folder: _Folder, frame: RecordedFrame, wall_offset_ns: int, done: PicturesDone) -> None:
    if frame.image:
        written = folder.put_image(frame, frame.image, frame.stamp_ns + wall_offset_ns)
        done.frames += written
        done.left_out += not written
    for name, message in frame.messages.items():
        if message.kind in MASKS:
            folder.put_mask(name, message)
            done.masks[name] += 1
        elif name == "tracks":
            folder.put_tracks(message)


class _Folder:
    """The files of the folder."""

    def __init__(self, folder: Path, form: str) -> None:
        self._folder, self._form = folder, form
        self._open = contextlib.ExitStack()
        self._lists: dict[str, IO[bytes]] = {}

    def close(self) -> None:
        self._open.close()

    def put_image(self, frame: RecordedFrame, record: Record, log_ns: int) -> bool:
        """Whether there is an image."""
        form, data = _encoded(record, self._form)
        if not data:
            return False
        name = f"{frame.seq:06d}{_SUFFIXES[form]}"
        (self._folder / name).write_bytes(data)
        self._line("stamps.csv", f"{frame.stamp_ns},{name}", "stamp_ns,filename")
        self._line("frames.csv", f"{frame.seq},{frame.stamp_ns},{log_ns},{name}", "seq,stamp_ns,log_ns,filename")
        return True

    def put_mask(self, name: str, message: Message) -> None:
        folder = Path("masks", name)
        if not (self._folder / folder).is_dir():
            (self._folder / folder).mkdir(parents=True)
            if message.kind is Kind.LABELS:
                (self._folder / folder / "classes.json").write_bytes(msgspec.json.encode(message.header.classes))
        png = cv2.imencode(".png", viewable(message))[1].tobytes()
        (self._folder / folder / f"{message.frame_seq:06d}.png").write_bytes(png)
        if message.kind is Kind.POSITIONS:
            rows = [{"id": row.id, "class": row.class_name} for row in message.header.tracks]
            self._row(str(folder / "ids.jsonl"), {"frame_seq": message.frame_seq, "positions": rows})

    def put_tracks(self, message: Message) -> None:
        head = message.header
        row = {"frame_seq": message.frame_seq, "stamp_ns": message.stamp_ns, "validity": head.validity}
        row |= {"reason": head.reason, "mask_size": (message.width, message.height), "roi": head.roi}
        self._row("tracks.jsonl", row | {"tracks": head.tracks, "events": head.events})

    def _row(self, name: str, row: dict[str, Any]) -> None:
        self._line(name, msgspec.json.encode(row).decode())

    def _line(self, name: str, line: str, head: str = "") -> None:
        if name not in self._lists:
            self._lists[name] = self._open.enter_context((self._folder / name).open("wb"))
            if head:
                self._line(name, head)
        self._lists[name].write(f"{line}\n".encode())


def _encoded(record: Record, wanted: str) -> tuple[str, bytes]:
    """Format and bytes of a picture, no bytes where it is broken."""
    form, data = recorded_bytes(record)
    if data and wanted in ("", form):
        return form, data
    picture = image_of(record)
    form = wanted or "png"
    return form, b"" if picture is None else encode_picture(picture, form, _QUALITY)


def recorded_bytes(record: Record) -> tuple[str, bytes]:
    """ "jpeg" or "png" and the very bytes; none where the record holds bare pixels or is broken."""
    from google.protobuf.message import DecodeError

    if record.schema != COMPRESSED_IMAGE:
        return "", b""
    try:
        message = message_type(COMPRESSED_IMAGE).FromString(record.data)
    except DecodeError:
        return "", b""
    form = "jpeg" if message.format == "jpg" else str(message.format)
    return (form, message.data) if form in _SUFFIXES and image_size(message.data) else ("", b"")


def viewable(message: Message) -> NDArray[Any]:
    """(h, w) uint8 or uint16."""
    mask = message.mask()
    return np.negative(mask.view(np.uint8)) if message.kind is Kind.BITS else mask

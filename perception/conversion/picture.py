"""One frame of a recording as a picture: its masks, ids and strip over the camera's image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from perception.conversion.canvas import Canvas, Image, Pictures, check_scale, chosen_topics
from perception.conversion.outputs import require_place, unfinished
from perception.conversion.reading import Drive, RecordedFrame, open_drive, recorded_frames
from perception.drives.pictures import encode_picture
from perception.errors import RecordingError
from perception.wire.pixels import MASKS

FORMS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_QUALITY = 92
_AROUND_S = 1.0  # in which frame belongs to a time: at a second there is one
_JUST_AFTER_S = 0.002  # rounding of a time that somebody read off a strip


@dataclass(frozen=True, slots=True)
class PictureWish:
    """Which picture.

    Args:
        at_s: the newest frame at this time, since the drive's first frame [s].
        scale: of the camera's size.
        topics: names of mask topics; empty: all.
        plain: the camera's image alone.
        strip: also the strip below, which says when and which frame it is.
        frames: another recording that has the images, those of equal stamps.
        offset_s: of the recording's first frame in the drive that the strip is to tell the time of [s].
    """

    at_s: float
    scale: float = 1.0
    topics: tuple[str, ...] = ()
    plain: bool = False
    strip: bool = True
    frames: Path | None = None
    offset_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PictureMade:
    """What was written."""

    seq: int
    at_s: float  # of the frame, since the drive's first one [s]
    width: int
    height: int


def write_picture(drive: Path, out: Path, wish: PictureWish, *, force: bool = False) -> PictureMade:
    """Write the picture of one frame as .jpg or .png.

    Raises:
        RecordingError: the drive can't be read, has nothing there, or `out` is there already or no picture's name.
    """
    form = check_out(out, force)
    check_scale(wish.scale)
    begin_s = max(0.0, wish.at_s - _AROUND_S)
    whole = open_drive(drive)
    part = open_drive(drive, begin_s, wish.at_s + _JUST_AFTER_S)
    frame, image = _newest(part, wish)
    told = replace(whole, begin_ns=whole.begin_ns - round(wish.offset_s * 1e9))
    canvas = Canvas.first(told, frame, image, wish.scale, wish.plain or not wish.strip)
    if canvas is None:
        raise RecordingError(f"{drive}: nothing at {wish.at_s:g} s to show: no image that can be decoded, and no masks")
    picture = canvas.draw(image, frame)
    with unfinished(out, force, frozenset(FORMS)) as file:
        file.write_bytes(encode_picture(picture, form, _QUALITY))
    offset_ns = whole.about.wall_offset_ns
    at_s = (frame.stamp_ns + offset_ns - told.begin_ns) / 1e9
    return PictureMade(frame.seq, at_s, picture.shape[1], picture.shape[0])


def check_out(out: Path, force: bool) -> str:
    """The format of a picture of this name. Raises RecordingError for one that is no picture's, or can't be written."""
    if (form := FORMS.get(out.suffix.lower())) is None:
        raise RecordingError(f"{out}: a picture's name ends in one of {', '.join(FORMS)}")
    require_place(out, force, frozenset(FORMS))
    return form


def _newest(part: Drive, wish: PictureWish) -> tuple[RecordedFrame, Image | None]:
    """The last frame with masks, else the last one."""
    pictures = Pictures(part, wish.frames)
    found: list[tuple[bool, RecordedFrame, Image | None]] = []
    for frame in recorded_frames(part, chosen_topics(part, wish.topics, wish.plain)):
        has_masks = any(message.kind in MASKS for message in frame.messages.values())
        if not found or has_masks or wish.plain or not found[0][0]:
            found = [(has_masks, frame, pictures.of(frame))]
    if not found:
        raise RecordingError(f"{part.path}: no frame at {wish.at_s:g} s")
    return found[0][1:]

"""What pictures and videos of a recorded drive are drawn from and on: its images, its masks, its strip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.conversion.drawing import draw_frame, frame_size
from perception.conversion.reading import Drive, RecordedFrame, open_drive, recorded_frames
from perception.conversion.strip import Strip
from perception.drives.frames import image_of
from perception.errors import RecordingError

Image = NDArray[np.uint8]

_LARGEST, _SMALLEST = 8192, 16  # a side [px]


def check_scale(scale: float) -> None:
    """Raises RecordingError for a scale that makes no picture."""
    if not 0.01 <= scale <= 4:
        raise RecordingError(f"scale {scale:g}: from 0.01 to 4")


def chosen_topics(drive: Drive, topics: tuple[str, ...], plain: bool = False) -> tuple[str, ...] | None:
    """Names of the wire topics to read; None for all. Raises RecordingError for one that the drive does not hold."""
    if plain:
        return ()
    for name in topics:
        if name not in drive.topics:
            raise RecordingError(f"{drive.path}: no topic {name!r}: it holds {', '.join(drive.topics) or 'no masks'}")
    return (*topics, "tracks") if topics else None


class Pictures:
    """The images of a recording, its own or those of another with the same stamps."""

    def __init__(self, drive: Drive, other: Path | None) -> None:
        self._ahead: Iterator[RecordedFrame] | None = None
        if other is None:
            return
        lent = open_drive(other)
        if not lent.has_images:
            raise RecordingError(f"{other}: it holds no images either: give the drive as it was recorded")
        # played as a source a drive's stamps begin with 0, replayed as a recording they stay what they were
        restarted = drive.about.clock == "drive" and lent.about.clock != "drive"
        self._shift_ns = lent.begin_ns - lent.about.wall_offset_ns if restarted else 0
        self._ahead = recorded_frames(lent, ())
        self._next: RecordedFrame | None = next(self._ahead, None)

    def of(self, frame: RecordedFrame) -> Image | None:
        record = frame.image
        if self._ahead is not None and record is None:
            wanted_ns = frame.stamp_ns + self._shift_ns
            while self._next and self._next.stamp_ns < wanted_ns:
                self._next = next(self._ahead, None)
            record = self._next.image if self._next and self._next.stamp_ns == wanted_ns else None
        return image_of(record) if record else None


class Canvas:
    """Draws frames at one size, that of the first that has something to show."""

    def __init__(self, size: tuple[int, int], strip: Strip | None) -> None:
        self._size, self._strip = size, strip

    @classmethod
    def first(cls, drive: Drive, frame: RecordedFrame, image: Image | None, scale: float, plain: bool) -> Canvas | None:
        """None where the frame does not tell the size."""
        size = (image.shape[1], image.shape[0]) if image is not None else frame_size(frame)
        if size is None:
            return None
        scaled = tuple(min(_LARGEST, max(_SMALLEST, round(side * scale / 2) * 2)) for side in size)
        offset = drive.about.wall_offset_ns
        strip = None if plain else Strip(scaled[0], drive.begin_ns - offset, drive.end_ns - offset)
        return cls((scaled[0], scaled[1]), strip)

    def note(self, frame: RecordedFrame) -> None:
        """A frame that is not shown."""
        if self._strip:
            self._strip.note(frame)

    def draw(self, image: Image | None, frame: RecordedFrame) -> Image:
        picture = draw_frame(image, frame, self._size)
        if self._strip is None:
            return picture
        whole = np.concatenate([picture, self._strip.draw(frame)])
        return whole if len(whole) % 2 == 0 else np.concatenate([whole, whole[-1:]])

"""A recording as a video with exact stamps: masks, ids and a time strip over the camera's image, or the image alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from perception.conversion.canvas import Canvas, Image, Pictures, check_scale, chosen_topics
from perception.conversion.outputs import Progress, no_progress, require_place, unfinished
from perception.conversion.reading import RecordedFrame, open_drive, recorded_frames
from perception.errors import RecordingError
from perception.wire.pixels import MASKS

SUFFIXES = frozenset({".mp4", ".mkv", ".mov"})
SPEEDS = (0.05, 100.0)
_CODECS = {"libx264": Fraction(1, 1_000_000), "mpeg4": Fraction(1, 60_000)}
"""The first that FFmpeg was built with, and its time base [s]; mpeg4 takes no finer one."""
_OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
_WAIT_NS = 500_000_000  # without a frame that the node took, one that it dropped is shown


@dataclass(frozen=True, slots=True)
class VideoWishes:
    """What a video shows.

    Args:
        begin_s, end_s: part of the drive, since its first frame [s].
        speed: times as fast as it was driven.
        scale: of the camera's size.
        topics: names of mask topics; empty: all.
        plain: the camera's image alone.
        dropped: show also frames that the node did not take, without masks; else they are marked in the strip, and
            shown only where it took none for half a second.
        frames: another recording that has the images, those of equal stamps.
    """

    begin_s: float = 0.0
    end_s: float | None = None
    speed: float = 1.0
    scale: float = 1.0
    topics: tuple[str, ...] = ()
    plain: bool = False
    dropped: bool = False
    frames: Path | None = None


@dataclass(slots=True)
class VideoDone:
    """What was written."""

    frames: int = 0
    dropped: int = 0  # frames that the node did not take and that are not shown
    without_image: int = 0
    without_masks: int = 0
    width: int = 0
    height: int = 0
    codec: str = ""


def write_video(
    drive: Path, out: Path, wishes: VideoWishes, *, force: bool = False, progress: Progress = no_progress
) -> VideoDone:
    """Write a video in which every recorded frame is shown from its stamp to the next one's, exact to a microsecond.

    Raises:
        RecordingError: the drive can't be read, has neither images nor masks to show, or `out` is there already.
    """
    check_out(out, force)
    check_wishes(wishes)
    opened = open_drive(drive, wishes.begin_s, wishes.end_s)
    topics = chosen_topics(opened, wishes.topics, wishes.plain)
    pictures = Pictures(opened, wishes.frames)
    done = VideoDone()
    with unfinished(out, force, SUFFIXES) as part, contextlib.closing(_Film(part, wishes.speed)) as film:
        canvas: Canvas | None = None
        for n, frame in enumerate(recorded_frames(opened, topics), 1):
            image = pictures.of(frame)
            canvas = canvas or Canvas.first(opened, frame, image, wishes.scale, wishes.plain)
            if canvas and (wishes.plain or wishes.dropped or not film.can_wait(frame)):
                film.show(canvas.draw(image, frame), frame.stamp_ns)
                done.frames += 1
                done.without_image += image is None
                done.without_masks += not any(message.kind in MASKS for message in frame.messages.values())
            elif canvas:
                canvas.note(frame)
                done.dropped += 1
            progress("frames", n, max(n, opened.frames))
        if canvas is None:
            raise RecordingError(f"{drive}: nothing in it to show: no image that can be decoded, and no masks")
        done.width, done.height, done.codec = *film.size, film.codec
    return done


def check_out(out: Path, force: bool) -> None:
    """Raises RecordingError for a name that is no video's, or a place where it can't be written."""
    if out.suffix.lower() not in SUFFIXES:
        raise RecordingError(f"{out}: a video's name ends in one of {', '.join(sorted(SUFFIXES))}")
    require_place(out, force, SUFFIXES)


def check_wishes(wishes: VideoWishes) -> None:
    """Raises RecordingError for a speed or scale that can't be, before anything is read."""
    if not SPEEDS[0] <= wishes.speed <= SPEEDS[1]:
        raise RecordingError(f"speed {wishes.speed:g}: from {SPEEDS[0]:g} to {SPEEDS[1]:g}")
    check_scale(wishes.scale)


class _Film:
    """A video file that is being written."""

    def __init__(self, path: Path, speed: float) -> None:
        self._path, self._speed = path, speed
        self.codec = next(name for name in _CODECS if name in av.codecs_available)
        self._base = _CODECS[self.codec]
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._first_ns = 0
        self._pts, self._last_ns = -1, 0

    @property
    def size(self) -> tuple[int, int]:
        return (self._stream.width, self._stream.height) if self._stream else (0, 0)

    def can_wait(self, frame: RecordedFrame) -> bool:
        """Whether it is one that was dropped, and the picture before it may be shown a little longer."""
        is_dropped = frame.decision is not None and frame.decision.what == "dropped" and not frame.messages
        return is_dropped and self._stream is not None and frame.stamp_ns - self._last_ns < _WAIT_NS

    def show(self, picture: Image, stamp_ns: int) -> None:
        """From this stamp on; one that does not rise is shown right after the one before."""
        if self._stream is None:
            self._open(picture)
            self._first_ns = stamp_ns
        at = round(Fraction(stamp_ns - self._first_ns, 10**9) / Fraction(self._speed) / self._base)
        self._pts, self._last_ns = max(self._pts + 1, at), stamp_ns
        self._encode(picture)

    def close(self) -> None:
        """Twice is fine."""
        container, stream, self._container, self._stream = self._container, self._stream, None, None
        if container and stream:
            try:
                container.mux(stream.encode())
            finally:
                container.close()

    def _open(self, picture: Image) -> None:
        with _told(self._path):
            self._container = container = av.open(str(self._path), "w")
        stream = cast(VideoStream, container.add_stream(self.codec, rate=30))
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._base
        # without B frames every frame can be sought, and stamps need no offset
        stream.codec_context.max_b_frames = 0
        stream.codec_context.options = dict(_OPTIONS[self.codec])
        self._stream = stream

    def _encode(self, picture: Image) -> None:
        assert self._container
        assert self._stream
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._pts, self._base
        with _told(self._path):
            self._container.mux(self._stream.encode(frame))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FFmpegError as error:
        raise RecordingError(f"{path}: can't be written: {error.strerror}") from None

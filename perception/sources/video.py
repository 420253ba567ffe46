"""A video file by PyAV: every frame with its exact stamp."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from perception.errors import SourceError
from perception.sources.keyframes import Entry, can_enter, find_entry, seek
from perception.sources.shots import Image, Shot
from perception.sources.stream import prepare, to_rgb, why

log = logging.getLogger(__name__)

_DEFAULT_FPS = 30
# What FFmpeg takes for video although a person would not: text is drawn as a terminal, lists point elsewhere.
_NOT_VIDEO = frozenset({"tty", "concat", "hls", "dash"})


class VideoReader:
    """The frames of one video file; a frame of another size than the first is broken."""

    def __init__(self, path: Path) -> None:
        """Raises SourceError when there is no such file, or no frame in it that can be decoded."""
        self.name = str(path)
        self._path = path
        self.restamped = 0  # frames whose own stamp was missing or did not rise, in the last pass
        self._end_pts: int | None = None  # where the last frame ends that could be read, in the last pass
        _require_content(path)
        container, stream = self._open()
        with container:
            rate = stream.average_rate or stream.guessed_rate or Fraction(0)
            self._first_pts, first = next(
                ((pts, image) for pts, image in self._images(container, stream) if image is not None), (None, None)
            )
        if first is None:
            raise SourceError(f"{path}: no frame in it can be decoded: the file is damaged or cut off")
        self.height, self.width = first.shape[:2]
        self.fps = float(rate)
        self._interval_ns = _to_ns(1, 1 / (rate or Fraction(_DEFAULT_FPS)))

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        """One pass. Raises SourceError when the file ends early, or its frames change their size for good.

        Decoding begins at the last key frame before `begin_ns`, where places and stamps can be told without decoding.
        """
        entry = self._entry(begin_ns) if begin_ns > 0 else None
        container, stream = self._open()
        stamps = _Stamps(stream.time_base or Fraction(1, 1000), self._interval_ns)
        if entry:
            stamps.go_on(self._first_pts, entry.pts)
        begin = entry.place if entry else 0
        place, resized, size = begin - 1, 0, (self.width, self.height)
        with container:
            for place, (pts, image) in enumerate(self._images(container, stream, entry), begin):
                if image is not None and image.shape[:2] != (self.height, self.width):
                    resized, size = resized + 1, (image.shape[1], image.shape[0])
                    image = None
                elif image is not None:
                    resized = 0
                yield Shot(image, stamps.next_ns(pts), place)
            declared_ns = _declared_ns(container, stream)
        self.restamped = stamps.repaired
        if stamps.repaired:
            log.warning("%s: %d frames had no rising stamp: spaced evenly", self.name, stamps.repaired)
        if resized:
            raise SourceError(
                f"{self.name}: frames change from {self.width}x{self.height} to {size[0]}x{size[1]} at frame"
                f" {place - resized + 1} and stay so: split the file there or scale it to one size"
            )
        # A file counts for how long its last frame is shown, which may be much longer than the others.
        end_ns = max(stamps.last_ns + self._interval_ns, stamps.since_first_ns(self._end_pts) or 0)
        self._check_complete(place + 1, end_ns, declared_ns)

    def length_ns(self) -> int:
        """As the file declares it."""
        container, stream = self._open()
        with container:
            return _declared_ns(container, stream)

    def identity(self) -> str:
        """The first 16 hex digits of the file's SHA-256. Raises SourceError when it can't be read any more."""
        try:
            with self._path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise SourceError(f"{self.name}: {error.strerror}") from None

    def _open(self) -> tuple[InputContainer, VideoStream]:
        try:
            # A list of segments inside the file must not make us fetch anything.
            container = av.open(self.name, options={"protocol_whitelist": "file"})
        except (FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self.name}: not a video that can be read, or cut off: {why(error, '')}") from None
        try:
            if not _NOT_VIDEO.isdisjoint(container.format.name.split(",")):
                raise SourceError(f"{self.name}: not a video file: give a video, or a folder of pictures")
            stream = prepare(container, self.name)
        except SourceError:
            container.close()
            raise
        stream.thread_type = "AUTO"
        return container, stream

    def _entry(self, begin_ns: int) -> Entry | None:
        """Where to begin to decode for `begin_ns`; None: at the start."""
        container, stream = self._open()
        with container:
            base = stream.time_base or Fraction(1, 1000)
            first_pts = self._first_pts
            if first_pts is None:
                return None
            entry = find_entry(container, stream, first_pts, first_pts + math.floor(Fraction(begin_ns, 10**9) / base))
        if entry is None or entry.place == 0:
            return None
        container, stream = self._open()
        with container:
            return entry if can_enter(container, stream, entry) else None

    def _images(
        self, container: InputContainer, stream: VideoStream, entry: Entry | None = None
    ) -> Iterator[tuple[int | None, Image | None]]:
        """Stamp in the stream's time base and image of every frame; no image where a packet can't be decoded."""
        if entry:
            seek(container, stream, entry)
        for pts, image in self._decoded(container, stream):
            if not (entry and pts is not None and pts < entry.pts):  # those shown before the key frame but coded after
                yield pts, image

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[int | None, Image | None]]:
        packets, self._end_pts = container.demux(stream), None
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                raise SourceError(f"{self.name}: the file is damaged or cut off: {why(error, '')}") from None
            if packet is None:
                return
            if packet.pts is not None and not packet.is_corrupt:
                end_pts = packet.pts + (packet.duration or 0)
                self._end_pts = end_pts if self._end_pts is None else max(self._end_pts, end_pts)
            try:
                yield from _decode(packet)
            except SourceError as error:
                raise SourceError(f"{self.name}: {error}") from None

    def _check_complete(self, count: int, end_ns: int, declared_ns: int) -> None:
        if declared_ns - end_ns > max(1_000_000_000, declared_ns // 10):
            raise SourceError(
                f"{self.name}: ends after {count} frames, {end_ns / 1e9:.1f} s, of {declared_ns / 1e9:.1f} s that it"
                " declares: the file is cut off"
            )


class _Stamps:
    """Exact, strictly rising stamps from a container's [ns since the first frame]."""

    def __init__(self, time_base: Fraction, interval_ns: int) -> None:
        self._time_base = time_base
        self._interval_ns = interval_ns
        self._first_pts: int | None = None
        self.last_ns = -interval_ns
        self.repaired = 0

    def next_ns(self, pts: int | None) -> int:
        if pts is not None and self._first_pts is None:
            self._first_pts = pts - self._pts_of(self.last_ns + self._interval_ns)
        stamp_ns = self.since_first_ns(pts)
        if stamp_ns is None or stamp_ns <= self.last_ns:
            stamp_ns = self.last_ns + self._interval_ns
            self.repaired += 1
        self.last_ns = stamp_ns
        return stamp_ns

    def since_first_ns(self, pts: int | None) -> int | None:
        return None if pts is None else _to_ns(pts - (self._first_pts or 0), self._time_base)

    def go_on(self, first_pts: int | None, pts: int) -> None:
        """Be as after all frames before the one of stamp `pts`, every one of which had a good stamp."""
        self._first_pts = first_pts
        self.last_ns = _to_ns(pts - (first_pts or 0), self._time_base) - 1

    def _pts_of(self, stamp_ns: int) -> int:
        return round(Fraction(stamp_ns, 10**9) / self._time_base)


def _decode(packet: Packet) -> Iterator[tuple[int | None, Image | None]]:
    try:
        for frame in packet.decode():
            if isinstance(frame, VideoFrame):
                yield frame.pts, to_rgb(frame)
    except (FFmpegError, OSError):
        yield packet.pts, None


def _require_content(path: Path) -> None:
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty: give a video file")
        with path.open("rb"):
            pass
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}: give a video file or a folder of pictures") from None


def _declared_ns(container: InputContainer, stream: VideoStream) -> int:
    """How long the file says its video is; 0 where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return _to_ns(stream.duration, stream.time_base)
    only_video = all(other.type == "video" for other in container.streams)
    if not container.duration or not only_video:
        return 0
    # Matroska's is the last frame's end, counted from 0 and not from the first frame
    return _to_ns(container.duration - max(0, container.start_time or 0), Fraction(1, av.time_base))


def _to_ns(ticks: int, time_base: Fraction) -> int:
    return round(ticks * time_base * 10**9)

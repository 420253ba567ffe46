"""A network camera (RTSP, HTTP) by PyAV."""

from __future__ import annotations

import time
from collections.abc import Iterator

import av
import numpy as np
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from perception.errors import SourceError
from perception.opencv import MAX_PIXELS, cv2
from perception.sources.live import LiveTiming
from perception.sources.redact import one_line
from perception.sources.shots import Image, Shot
from perception.sources.stop import Stop

# RTSP by TCP where the camera can: a lost UDP packet smears the picture until the next key frame. A short analysis,
# and no wait for a few frames to guess the rate from: it delays the first frame.
_OPTIONS = {"rtsp_flags": "prefer_tcp", "analyzeduration": "500000", "fpsprobesize": "1"}

_FRESH_S = 0.002  # a packet that we had to wait for so long has just arrived
_OBLIQUE = 0.02  # about a degree, which FFmpeg too takes for none
_BACKLOG_S = 1.0  # after that, what comes without a wait is a fast stream, not a backlog


def open_stream(url: str, timing: LiveTiming, stop: Stop) -> StreamDevice:
    """Connect. Raises SourceError, without the credentials of `url`, within about two `timing.timeout_s`."""
    try:
        # PyAV's read timeout takes effect after twice its value.
        container = av.open(url, timeout=(timing.timeout_s, timing.timeout_s / 2), options=dict(_OPTIONS))
    except (FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"can't connect: {why(error, url)}") from None
    try:
        return StreamDevice(container, prepare(container, url), url, timing, stop)
    except SourceError:
        container.close()
        raise


def prepare(container: InputContainer, name: str) -> VideoStream:
    """The first video stream, its decoder told to refuse bombs. Raises SourceError when there is none."""
    if not container.streams.video:
        raise SourceError(f"{name}: holds no video: give a video file or stream")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise SourceError(f"{name}: claims {width}x{height} pixels; at most {MAX_PIXELS} are decoded: scale it down")
    options = {"max_pixels": str(MAX_PIXELS)}
    if stream.codec_context.name == "mjpeg":
        options["err_detect"] = "explode"  # else half a picture comes out as a whole one
    stream.codec_context.options = options
    return stream


def to_rgb(frame: VideoFrame) -> Image:
    """RGB in memory of its own, turned and mirrored as it is to be shown. Raises SourceError for an oblique turn."""
    image = np.ascontiguousarray(_upright(frame.to_ndarray(format="rgb24"), frame), np.uint8)
    return image.copy() if frame.format.name == "rgb24" else image  # the decoder's own memory if not converted


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """By the frame's display matrix, row by row what x, y and 1 add to x and y: `frame.rotation` knows no mirror."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    xx, xy, _, yx, yy = np.frombuffer(matrix, np.int32)[:5].tolist()
    straight, across = abs(xx) + abs(yy), abs(xy) + abs(yx)
    if min(straight, across) > _OBLIQUE * max(straight, across):
        degrees = abs(frame.rotation)
        raise SourceError(f"is shown turned by {degrees} degrees: only multiples of 90 are read: turn it beforehand")
    if across > straight:
        image, xx, yy = cv2.transpose(image), yx, xy
    if xx < 0 or yy < 0:
        image = cv2.flip(image, -1 if xx < 0 and yy < 0 else int(xx < 0))
    return image


def why(error: Exception, url: str) -> str:
    """What FFmpeg says, without the address that it likes to repeat."""
    if isinstance(error, ExitError):  # PyAV's way to say that its timeout ended the call
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error)
    return one_line(str(text).replace(url, ""), url)


class StreamDevice:
    """Frames of an open stream, stamped when their packet arrived.

    What arrived while the connection was being made is decoded but not given: nobody knows how old it is.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, url: str, timing: LiveTiming, stop: Stop
    ) -> None:
        self._container = container
        self._stream = stream
        self._url = url
        self._timing = timing
        self._stop = stop
        self._patience_s = timing.first_timeout_s
        self._packets = container.demux(stream)
        self._shots: Iterator[Shot] = iter(())
        self._backlog_until = time.monotonic() + _BACKLOG_S
        self.fps = float(stream.average_rate or stream.guessed_rate or 0)

    def read(self) -> Shot:
        """The next frame, or a broken one. Raises SourceError on a stall and when the stream ends."""
        began = time.monotonic()
        while not self._stop.is_set:
            shot = next(self._shots, None)
            if shot is not None:
                self._patience_s = self._timing.timeout_s
                return shot
            if time.monotonic() - began > self._patience_s:
                raise SourceError(f"data comes, but no frame for {self._patience_s:.1f} s that can be decoded")
            asked = time.monotonic()
            packet = self._next_packet()
            arrived_ns = time.monotonic_ns()
            if arrived_ns / 1e9 - asked > _FRESH_S or asked > self._backlog_until:
                self._backlog_until = 0.0
            self._shots = self._decode(packet, arrived_ns)
        raise SourceError("closed")

    def close(self) -> None:
        self._container.close()

    def _next_packet(self) -> Packet:
        try:
            packet = next(self._packets)
        except StopIteration:
            raise SourceError("the stream ended") from None
        except (FFmpegError, OSError) as error:
            raise SourceError(f"the stream broke off: {why(error, self._url)}") from None
        if packet.size == 0:  # PyAV's mark of the end; its decoder is empty in a live stream
            raise SourceError("the stream ended")
        return packet

    def _decode(self, packet: Packet, now_ns: int) -> Iterator[Shot]:
        fresh = self._backlog_until == 0.0
        try:
            for frame in packet.decode():
                if fresh and isinstance(frame, VideoFrame):
                    yield Shot(None if frame.is_corrupt else to_rgb(frame), now_ns)
        except (FFmpegError, OSError):
            if fresh:
                yield Shot(None, now_ns)

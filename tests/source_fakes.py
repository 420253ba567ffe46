"""Real files, pipes, processes and servers that stand in for cameras."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from perception.opencv import cv2
from perception.protocols import Source
from perception.sources.live import LiveTiming
from perception.sources.url import open_source
from perception.types import Frame

QUICK = LiveTiming(
    stall_s=0.15, timeout_s=0.4, first_timeout_s=3.0, first_backoff_s=0.02, last_backoff_s=0.1, broken_limit=5
)

WIDTH, HEIGHT = 64, 48

Y4M_CHILD = r"""
import os, sys, time
count, period_s, end, pids = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
with open(pids, "a") as file:
    file.write(f"{os.getpid()}\n")
out = sys.stdout.buffer
out.write(b"YUV4MPEG2 W64 H48 F30:1 Ip C420jpeg\n")
for i in range(count):
    out.write(b"FRAME\n" + bytes([16 + i % 200]) * 3072 + b"\x80" * 1536)
    out.flush()
    time.sleep(period_s)
if end == "die":
    sys.exit("cable rtsp://root:hunter22@cam/ on fire")
if end == "garble":
    out.write(b"\0" * 100_000)
    out.flush()
if end == "stubborn":
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
"""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 6.0) -> float:
    """Poll until true; the seconds that it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - begin


def replay(path: Path | str, *, realtime: bool | None = None, loop: bool = False) -> Source:
    return open_source(str(path), camera="front", realtime=realtime, loop=loop)


def check_replay(frames: list[Frame], size: tuple[int, int]) -> None:
    """What holds for the frames of every recorded source."""
    assert all(frame.camera == "front" for frame in frames)
    assert all(frame.image.shape == (size[1], size[0], 3) for frame in frames)
    assert all(frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous for frame in frames)
    assert all(b.seq > a.seq and b.stamp_ns > a.stamp_ns for a, b in pairwise(frames))
    assert len({frame.image.ctypes.data for frame in frames}) == len(frames)


@contextmanager
def reading(source: Source) -> Iterator[list[Frame]]:
    """Iterate in a thread; what came so far is in the list."""
    frames: list[Frame] = []
    iterator = iter(source)
    thread = threading.Thread(target=lambda: [frames.append(frame) for frame in iterator])
    thread.start()
    try:
        yield frames
    finally:
        source.close()
        thread.join(5)
        assert not thread.is_alive()


def y4m_header(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode()


def y4m_frame(luma: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return b"FRAME\n" + bytes([luma]) * (width * height) + b"\x80" * (width * height // 2)


def write_video(
    path: Path,
    pts: Sequence[int],
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    time_base: Fraction = Fraction(1, 1000),
    codec: str = "mpeg4",
) -> Path:
    """A video whose frame i has the stamp pts[i] and a brightness that rises with i."""
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=30))
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        for index, stamp in enumerate(pts):
            image = np.full((size[1], size[0], 3), 20 + 5 * (index % 40), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture(suffix: str, width: int = WIDTH, height: int = HEIGHT, value: int = 100) -> bytes:
    """One encoded picture: red `value`, green 0, blue 0."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = value
    return cv2.imencode(suffix, image)[1].tobytes()


class MjpegCamera:
    """A network camera on 127.0.0.1: 50 pictures a second, until told to misbehave."""

    def __init__(self, port: int = 0, password: str = "") -> None:
        self.mode = "run"  # "run" | "stall" | "broken" | "cut"
        self.password = password
        self.size: tuple[int, int] = (WIDTH, HEIGHT)
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera._serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cut all streams and refuse new ones; the port is free again."""
        self.mode = "cut"
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        expected = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
        if self.password and handler.headers.get("Authorization") != expected:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        try:
            while self.mode != "cut":
                if self.mode != "stall":
                    handler.wfile.write(self._part())
                time.sleep(0.02)
        except OSError:
            return  # the client left

    def _part(self) -> bytes:
        data = picture(".jpg", *self.size)
        if self.mode == "broken":
            data = data[: len(data) // 2]
        return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(data), data)

"""A camera of known content and rate: JPEG frames that become ready at fixed times, as a USB camera's do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

import numpy as np

from perception.drives.pictures import encode_picture
from perception.errors import SourceError
from perception.opencv import cv2
from perception.sources.live import LiveSource, LiveTiming
from perception.sources.shots import Shot
from perception.sources.stop import Stop
from perception.sources.url import open_source
from perception.stopwatch import Stopwatch

DISTINCT = 60  # frames; played forth and back so that nothing jumps
QUALITY = 90


class JpegCamera:
    """Delivers frame k at start + k / fps and decodes it in the capture thread; late reads skip, as a driver does."""

    def __init__(self, pictures: Sequence[bytes], fps: float, stop: Stop, stopwatch: Stopwatch) -> None:
        self.fps = fps
        self._pictures, self._stop, self._time = pictures, stop, stopwatch
        self._start_ns, self._k = time.monotonic_ns(), -1

    def read(self) -> Shot:
        period_ns = 1e9 / self.fps
        self._k = max(self._k + 1, int((time.monotonic_ns() - self._start_ns) / period_ns))
        ready_ns = self._start_ns + round(self._k * period_ns)
        if self._stop.sleep((ready_ns - time.monotonic_ns()) / 1e9):
            raise SourceError("closed")
        with self._time("decode"):
            coded = np.frombuffer(self._pictures[self._place()], np.uint8)
            image = cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
        return Shot(None if image is None else image.astype(np.uint8, copy=False), ready_ns)

    def close(self) -> None:
        """Nothing is held."""

    def _place(self) -> int:
        n = len(self._pictures)
        there_and_back = self._k % max(1, 2 * n - 2)
        return min(there_and_back, 2 * n - 2 - there_and_back) if n > 1 else 0


def load_pictures(drive: str) -> tuple[list[bytes], tuple[int, int]]:
    """The first frames of a drive as JPEG, and their width and height [px]."""
    source = open_source(drive, camera="front")
    pictures, size = [], (0, 0)
    for frame in islice(source, DISTINCT):
        pictures.append(encode_picture(frame.image, "jpeg", QUALITY))
        size = (frame.image.shape[1], frame.image.shape[0])
    source.close()
    return pictures, size


def camera_source(pictures: Sequence[bytes], fps: float, stopwatch: Stopwatch) -> LiveSource:
    return LiveSource(
        lambda stop: JpegCamera(pictures, fps, stop, stopwatch), camera="front", url="bench", timing=LiveTiming()
    )

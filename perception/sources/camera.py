"""A V4L2 camera by OpenCV."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Protocol

from perception.errors import SourceError
from perception.opencv import cv2
from perception.sources.live import LiveTiming
from perception.sources.shots import Shot
from perception.sources.stop import Stop

_STAMP_MAX_AGE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What to ask of a camera; 0 or empty leaves the driver's choice. A driver may give something else."""

    width: int = 0  # [px]
    height: int = 0  # [px]
    fps: float = 0.0
    fourcc: str = ""  # pixel format: MJPG, YUYV, ...


class Capture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def read(self) -> tuple[bool, Any]: ...
    def get(self, propId: int) -> float: ...
    def release(self) -> None: ...


def open_camera(path: str, settings: CameraSettings, timing: LiveTiming, stop: Stop) -> CameraDevice:
    """Open `/dev/videoN`. Raises SourceError when it is absent, not allowed or not a camera."""
    if not os.path.exists(path):
        raise SourceError(f"{path}: no such device: plug the camera in or name another one")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(f"{path}: permission denied: add this user to the group 'video'")
    try:
        capture = cv2.VideoCapture(path, cv2.CAP_V4L2)
        opened = capture.isOpened()
        _ask(capture, settings)
    except cv2.error as error:
        raise SourceError(f"{path}: {error.err}") from None
    if not opened:
        raise SourceError(f"{path}: can't be opened as a camera: in use by another program, or not a capture device")
    return CameraDevice(capture, path, timing, stop)


class CameraDevice:
    """Frames of an open capture, converted from BGR."""

    def __init__(self, capture: Capture, path: str, timing: LiveTiming, stop: Stop) -> None:
        self._capture = capture
        self._path = path
        self._timing = timing
        self._stop = stop
        self._patience_s = timing.first_timeout_s
        self.fps = max(0.0, float(capture.get(cv2.CAP_PROP_FPS)))

    def read(self) -> Shot:
        """The next frame, or a broken one. Raises SourceError on a stall and when the camera is gone."""
        began = time.monotonic()
        while True:
            call_began = time.monotonic()
            try:
                good, bgr = self._capture.read()
            except cv2.error as error:
                raise SourceError(f"{self._path}: {error.err}") from None
            now_ns = time.monotonic_ns()
            if good and bgr is not None:
                self._patience_s = self._timing.timeout_s
                return Shot(_to_rgb(bgr), self._stamp_ns(now_ns))
            self._check(now_ns / 1e9 - began)
            if now_ns / 1e9 - call_began < 0.5:  # no select timeout: a frame came, and it was broken
                return Shot(None, now_ns)

    def close(self) -> None:
        self._capture.release()

    def _check(self, silent_s: float) -> None:
        if not os.path.exists(self._path):
            raise SourceError(f"{self._path}: the camera is gone")
        if silent_s > self._patience_s or self._stop.is_set:
            raise SourceError(f"{self._path}: no frame for {silent_s:.1f} s")

    def _stamp_ns(self, now_ns: int) -> int:
        """The driver's stamp where it is plausibly on the monotonic clock, else the host's."""
        driver_ns = round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        return driver_ns if 0 <= now_ns - driver_ns <= _STAMP_MAX_AGE_NS else now_ns


def _ask(capture: cv2.VideoCapture, settings: CameraSettings) -> None:
    """The pixel format first: the sizes and rates that a driver has depend on it."""
    if settings.fourcc:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings.fourcc))
    for key, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, settings.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, settings.height),
        (cv2.CAP_PROP_FPS, settings.fps),
    ):
        if value:
            capture.set(key, value)


def _to_rgb(bgr: Any) -> Any:
    """RGB in new memory; what is not a colour image goes on as it is, for the check that counts it as broken."""
    if getattr(bgr, "ndim", 0) == 3 and bgr.shape[2] == 3 and bgr.size:
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return bgr

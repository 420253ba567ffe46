"""A live source: a capture thread that keeps a device open, and the newest of its frames."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from perception.clock import boot_id
from perception.errors import SourceError
from perception.protocols import CaptureListener, SourceInfo, SourceStatus
from perception.sources.latest import Latest
from perception.sources.redact import one_line, shown
from perception.sources.shots import Device, Shot
from perception.sources.stop import Stop
from perception.types import Frame

log = logging.getLogger(__name__)

_EXIT_JOIN_S = 1.1


@dataclass(frozen=True, slots=True)
class LiveTiming:
    """When a live source calls its device stalled, and how it opens it again."""

    stall_s: float = 0.15  # no frame for so long, or for three periods of a slow camera: "stalled"
    timeout_s: float = 2.0  # no frame for so long: close and open again
    first_timeout_s: float = 5.0  # the same for the first frame after opening: cameras warm up
    first_backoff_s: float = 0.2
    last_backoff_s: float = 1.0  # so that a camera that is back gives frames within 1.5 s
    broken_limit: int = 30  # so many broken frames in a row: close and open again


class LiveSource:
    """The newest frame of a device that is opened again, with back-off, whenever it stalls, ends or breaks.

    Stamps are on the host's monotonic clock and strictly rising. `seq` counts what was captured, so that a gap is
    what was dropped or broken. The iteration blocks until a frame comes and ends only by `close`.

    Attributes:
        listener: is told of every captured frame; to be set before the iteration begins.
    """

    listener: CaptureListener | None = None

    def __init__(
        self, open_device: Callable[[Stop], Device], *, camera: str, url: str, timing: LiveTiming | None = None
    ) -> None:
        """`open_device` raises SourceError when there is no device now; `url` is the setting, for messages."""
        self._open_device = open_device
        self._camera = camera
        self._url = url
        self._timing = timing or LiveTiming()
        self._stop = Stop()
        self._latest: Latest[Frame] = Latest()
        self._thread: threading.Thread | None = None
        self._state, self._reason = "starting", "not yet opened"
        self._last_reason = "closed"  # once it is closed: why no good frame had come, where none had
        self._heard_ns = time.monotonic_ns()  # when the last good frame came, or the device was opened
        self._stamp_ns = 0
        self._captured = self._broken = self._reopened = 0
        self._broken_in_a_row = 0
        self._size: tuple[int, int] | None = None  # width, height since the device was opened [px]
        self._info = SourceInfo(0, 0, 0.0, boot_id(), "")

    def __iter__(self) -> Iterator[Frame]:
        """Start capturing now. Raises SourceError when it was iterated before: one source, one reader."""
        if self._thread is not None:
            raise SourceError(f"{shown(self._url)}: this source is already being read: open another one")
        self._heard_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._capture, name=f"capture-{self._camera}", daemon=True)
        self._thread.start()
        # A daemon thread that is inside OpenCV when the interpreter goes away aborts the process.
        atexit.register(self._thread.join, _EXIT_JOIN_S)
        return self._frames(self._thread)

    def info(self) -> SourceInfo:
        """Size and rate of the frames that come now; 0 before the first one."""
        return self._info

    def status(self) -> SourceStatus:
        """What is so at this moment, also while the capture thread is blocked inside a driver."""
        state, reason = ("ended", self._last_reason) if self._stop.is_set else (self._state, self._reason)
        silent_s = (time.monotonic_ns() - self._heard_ns) / 1e9
        if (
            state in ("starting", "running")
            and silent_s > max(self._timing.stall_s, 3 / self._info.fps if self._info.fps else 0.0)
            and self._thread is not None
        ):
            state, reason = "stalled", f"no usable frame for {silent_s:.1f} s"
        return SourceStatus(state, reason, self._captured, self._latest.dropped, self._broken, self._reopened)

    def close(self) -> None:
        """End the iteration within 0.1 s and let the capture thread close the device."""
        if not self._stop.is_set and self._captured == self._broken:
            self._last_reason = self.status().reason
        self._stop.set()
        self._latest.close()

    def _frames(self, thread: threading.Thread) -> Iterator[Frame]:
        try:
            while not self._stop.is_set and (frame := self._latest.take()) is not None:
                if self._stop.is_set:
                    return
                yield frame
        finally:
            self.close()
            thread.join(0.05)
            if not thread.is_alive():
                atexit.unregister(thread.join)

    def _capture(self) -> None:
        backoff_s = self._timing.first_backoff_s
        try:
            while not self._stop.is_set:
                good_before = self._captured - self._broken
                reason = self._session()
                if self._captured - self._broken > good_before:
                    backoff_s = self._timing.first_backoff_s
                self._lose(reason, backoff_s)
                self._stop.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, self._timing.last_backoff_s)
                self._reopened += not self._stop.is_set
        except Exception as error:  # handed over to the thread that iterates
            self._state, self._reason = "ended", one_line(f"{type(error).__name__}: {error}", self._url)
            self._latest.close(error)

    def _session(self) -> str:
        """Open the device and read until it fails; the reason why it did."""
        device = None
        try:
            device = self._open_device(self._stop)
            self._size, self._broken_in_a_row = None, 0
            if self._state == "starting":
                self._heard_ns = time.monotonic_ns()
            while not self._stop.is_set:
                self._accept(device.read(), device.fps)
        except SourceError as error:
            return one_line(str(error), self._url)
        finally:
            if device is not None:
                device.close()
        return "closed"

    def _accept(self, shot: Shot, fps: float) -> None:
        self._captured += 1
        image = shot.image
        size = None if image is None or not _is_rgb(image) else (image.shape[1], image.shape[0])
        if image is None or size is None or self._size not in (None, size):
            self._count_broken(size, shot.stamp_ns)
            return
        if self._size is None:
            self._size = size
            self._info = SourceInfo(*size, fps, boot_id(), "")
        self._broken_in_a_row = 0
        self._stamp_ns = max(shot.stamp_ns, self._stamp_ns + 1)
        self._heard_ns = time.monotonic_ns()
        self._hand_over(Frame(self._captured - 1, self._stamp_ns, self._camera, image))
        self._recover()

    def _hand_over(self, frame: Frame) -> None:
        listener = self.listener
        if listener:
            frame = listener.captured(frame, time.monotonic_ns())
        dropped = self._latest.put(frame)
        if listener and dropped:
            listener.dropped(
                dropped,
                "the source was closed before it was taken"
                if dropped is frame
                else "a newer frame came before it was taken",
            )

    def _count_broken(self, size: tuple[int, int] | None, stamp_ns: int) -> None:
        what = "undecodable" if size is None else f"{size[0]}x{size[1]} instead of {self._size}"
        if self.listener:
            self.listener.broken(self._captured - 1, stamp_ns, what)
        self._broken += 1
        self._broken_in_a_row += 1
        if self._broken_in_a_row >= self._timing.broken_limit:
            raise SourceError(f"{self._broken_in_a_row} broken frames in a row, the last one {what}")

    def _recover(self) -> None:
        if self._state == "running":
            return
        log.info("camera %s: frames from %s after %d reopenings", self._camera, shown(self._url), self._reopened)
        self._state, self._reason = "running", ""

    def _lose(self, reason: str, backoff_s: float) -> None:
        if self._stop.is_set:
            return
        if (self._state, self._reason) != ("reopening", reason):
            name = shown(self._url)
            log.warning("camera %s: %s: %s: opening it again in %.1f s", self._camera, name, reason, backoff_s)
        self._state, self._reason = "reopening", reason


def _is_rgb(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0

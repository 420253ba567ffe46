from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.clock import boot_id
from perception.errors import SourceError
from perception.opencv import cv2
from perception.sources.camera import CameraDevice
from perception.sources.live import LiveSource
from perception.sources.shots import Shot
from perception.sources.stop import Stop
from tests.source_fakes import QUICK, reading, wait_until, write_video


def image(width: int = 8, height: int = 6, value: int = 1) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


class ScriptedDevice:
    """Gives the images of a script, then fails, or blocks like a driver does when the script ends with an Event."""

    fps = 30.0

    def __init__(self, script: Iterable[Any]) -> None:
        self._script: Iterator[Any] = iter(script)
        self.closed = False

    def read(self) -> Shot:
        item = next(self._script, SourceError("unplugged"))
        if isinstance(item, threading.Event):
            item.wait(20)
            raise SourceError("woken")
        if isinstance(item, Exception):
            raise item
        time.sleep(0.002)
        return Shot(item, time.monotonic_ns())

    def close(self) -> None:
        self.closed = True


def live(*sessions: Iterable[Any] | Exception, **timing: Any) -> tuple[LiveSource, list[float]]:
    """A source whose n-th opening gives or raises the n-th session (then the last for ever), and the opening times."""
    openings: list[float] = []

    def open_device(stop: Stop) -> ScriptedDevice:
        session = sessions[min(len(openings), len(sessions) - 1)]
        openings.append(time.monotonic())
        if isinstance(session, Exception):
            raise session
        return ScriptedDevice(session)

    return LiveSource(open_device, camera="front", url="fake:", timing=replace(QUICK, **timing)), openings


def endless(make: Callable[[int], Any] = lambda i: image(value=i % 250)) -> Iterable[Any]:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            i = 0
            while True:
                yield make(i)
                i += 1

    return Endless()


def test_a_slow_reader_gets_the_newest_and_drops_are_counted() -> None:
    source, _ = live(endless())
    frames = []
    for frame in source:
        frames.append(frame)
        time.sleep(0.02)
        if len(frames) == 8:
            break
    wait_until(lambda: not _capture_threads(), "the capture thread ends")
    status = source.status()
    assert status.dropped > 8
    # One frame may have been in the slot, and one on its way into it, when the reader left.
    assert status.captured - 2 <= status.dropped + len(frames) <= status.captured
    seqs = [frame.seq for frame in frames]
    assert seqs == sorted(set(seqs))
    assert all(frame.image[0, 0, 0] == frame.seq % 250 for frame in frames)
    assert source.info().clock == boot_id()


def test_stamps_rise_strictly_even_if_the_device_repeats_them() -> None:
    class Same(ScriptedDevice):
        def read(self) -> Shot:
            return Shot(super().read().image, 1000)

    source = LiveSource(lambda stop: Same(endless()), camera="front", url="fake:", timing=QUICK)
    stamps = [frame.stamp_ns for frame, _ in zip(source, range(10), strict=False)]
    source.close()
    assert all(b > a for a, b in pairwise(stamps))


def test_a_stall_shows_while_the_capture_thread_is_blocked() -> None:
    blocked = threading.Event()
    source, _ = live([image(), blocked])
    with reading(source) as frames:
        wait_until(lambda: source.status().state == "running" and len(frames) == 1, "first frame")
        took_s = wait_until(lambda: source.status().state == "stalled", "stalled")
        assert took_s < QUICK.stall_s + 0.15
        assert "no usable frame for" in source.status().reason
        blocked.set()


def test_a_device_that_opens_but_never_gives_a_frame_is_stalled() -> None:
    blocked = threading.Event()
    source, _ = live([blocked])
    with reading(source):
        assert source.status().state == "starting"
        wait_until(lambda: source.status().state == "stalled", "stalled", QUICK.stall_s + 0.15)
        blocked.set()


def test_back_off_doubles_up_to_its_limit() -> None:
    source, openings = live(SourceError("absent"), first_backoff_s=0.05, last_backoff_s=0.2)
    with reading(source):
        wait_until(lambda: len(openings) >= 6, "six tries")
        status = source.status()
    gaps = [b - a for a, b in pairwise(openings)][:5]
    for gap, nominal in zip(gaps, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert nominal <= gap < nominal + 0.15
    assert (status.state, status.reason) == ("reopening", "absent")
    assert status.reopened >= 5


def test_the_first_frame_after_a_return_resets_the_back_off() -> None:
    absent = SourceError("absent")
    source, openings = live(absent, absent, absent, [image()], [image()], first_backoff_s=0.02, last_backoff_s=5)
    with reading(source) as frames:
        wait_until(lambda: len(openings) >= 6, "two more openings")
    assert openings[3] - openings[2] >= 0.08
    assert openings[5] - openings[4] < 0.08
    assert len(frames) >= 2


def test_a_device_that_was_absent_at_the_start_runs_later() -> None:
    source, _ = live(SourceError("absent"), SourceError("absent"), endless())
    with reading(source) as frames:
        wait_until(lambda: len(frames) > 3, "frames")
        status = source.status()
    assert (status.state, status.reason, status.reopened) == ("running", "", 2)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        np.zeros((6, 8, 3), np.uint16),
        np.zeros((6, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((7, 8, 3), np.uint8),
    ],
    ids=["none", "uint16", "grey", "empty", "other-size"],
)
def test_a_broken_frame_is_dropped_and_counted(bad: Any) -> None:
    source, openings = live(endless(lambda i: bad if i % 3 == 2 else image()))
    with reading(source) as frames:
        wait_until(lambda: source.status().broken >= 6, "broken frames")
    assert len(openings) == 1
    assert all(frame.image.shape == (6, 8, 3) and frame.image.dtype == np.uint8 for frame in frames)


def test_many_broken_frames_in_a_row_reopen_and_a_new_size_is_accepted() -> None:
    source, openings = live([image(), *[image(16, 12)] * 20], endless(lambda i: image(16, 12)))
    with reading(source) as frames:
        wait_until(lambda: source.info().width == 16, "the new size")
        wait_until(lambda: frames[-1].image.shape == (12, 16, 3), "a frame of the new size")
        status = source.status()
    assert len(openings) == 2
    assert status.broken == QUICK.broken_limit
    assert (source.info().width, source.info().height, source.info().fps) == (16, 12, 30.0)


def test_close_ends_a_blocked_iteration_at_once() -> None:
    blocked = threading.Event()
    source, _ = live([blocked])
    ended = []
    thread = threading.Thread(target=lambda: (list(source), ended.append(time.monotonic())))
    thread.start()
    wait_until(lambda: source.status().state == "stalled", "blocked")
    begin = time.monotonic()
    source.close()
    source.close()
    thread.join(2)
    assert ended[0] - begin < 0.1
    assert source.status().state == "ended"
    blocked.set()


@pytest.mark.parametrize(
    ("session", "reason"),
    [(SourceError("absent"), "absent"), ([None] * 100, "broken frames in a row"), ([image()], "closed")],
)
def test_a_closed_source_says_why_no_good_frame_came(session: Any, reason: str) -> None:
    source, openings = live(session)
    with reading(source):
        wait_until(lambda: len(openings) >= 2, "reopened")
    assert source.status().state == "ended"
    assert reason in source.status().reason


def test_a_closed_source_says_that_no_frame_came_in_time() -> None:
    blocked = threading.Event()
    source, _ = live([blocked])
    with reading(source):
        wait_until(lambda: source.status().state == "stalled", "blocked")
    blocked.set()
    assert "no usable frame for" in source.status().reason


def test_close_in_a_signal_handler_ends_the_iteration() -> None:
    source, _ = live(SourceError("absent"))
    before = signal.signal(signal.SIGUSR1, lambda *_: source.close())
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        begin = time.monotonic()
        assert list(source) == []
        assert time.monotonic() - begin < 0.3
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_devices_are_closed() -> None:
    devices: list[ScriptedDevice] = []

    def open_device(stop: Stop) -> ScriptedDevice:
        devices.append(ScriptedDevice([image()]))
        return devices[-1]

    source = LiveSource(open_device, camera="front", url="fake:", timing=QUICK)
    with reading(source):
        wait_until(lambda: len(devices) >= 3, "reopened twice")
    wait_until(lambda: all(device.closed for device in devices), "all closed")


def test_an_error_that_nobody_foresaw_is_raised_in_the_reading_thread() -> None:
    source, _ = live([image(), ZeroDivisionError("a bug")])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(source)
    assert source.status().state == "ended"


def test_a_source_is_read_once() -> None:
    source, _ = live(endless())
    with reading(source), pytest.raises(SourceError, match="already being read"):
        iter(source)


def test_credentials_stay_out_of_status_and_log(caplog: pytest.LogCaptureFixture) -> None:
    url = "rtsp://admin:hunter22@10.0.0.9/live?token=abcdef99"

    def open_device(stop: Stop) -> ScriptedDevice:
        raise SourceError(f"can't open {url}: 401 for hunter22 with abcdef99\nsecond line")

    source = LiveSource(open_device, camera="front", url=url, timing=QUICK)
    with caplog.at_level(logging.DEBUG), reading(source):
        wait_until(lambda: source.status().reopened > 1, "reopened")
        reason = source.status().reason
    for text in (reason, caplog.text):
        assert "10.0.0.9" not in text or "***@10.0.0.9" in text
        assert "hunter22" not in text
        assert "abcdef99" not in text
    assert "\n" not in reason
    assert len(caplog.records) == 1  # once per reason, not once per try


def test_a_camera_gives_rgb_and_says_when_it_is_gone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.avi", range(0, 100, 10), codec="mjpeg")
    device = CameraDevice(cv2.VideoCapture(str(path)), str(path), QUICK, Stop())
    shots = [device.read() for _ in range(10)]
    assert all(shot.image is not None and shot.image.shape == (48, 64, 3) for shot in shots)
    assert device.read().image is None  # it fails at once: a broken frame, not a stall
    path.unlink()
    with pytest.raises(SourceError, match="the camera is gone"):
        device.read()
    device.close()


class FakeCapture:
    """What a V4L2 capture answers."""

    def __init__(self, stamp_ms: float) -> None:
        self._stamp_ms = stamp_ms

    def read(self) -> tuple[bool, Any]:
        bgr = np.zeros((4, 4, 3), np.uint8)
        bgr[..., 0] = 200
        return True, bgr

    def get(self, propId: int) -> float:
        return self._stamp_ms if propId == cv2.CAP_PROP_POS_MSEC else 25.0

    def release(self) -> None:
        pass


def test_blue_stays_blue() -> None:
    device = CameraDevice(FakeCapture(0), os.devnull, QUICK, Stop())
    shot = device.read()
    assert shot.image is not None
    assert shot.image[0, 0].tolist() == [0, 0, 200]
    assert shot.image.flags.c_contiguous
    assert device.fps == 25.0


@pytest.mark.parametrize(("age_s", "trusted"), [(0.02, True), (5.0, False), (-1.0, False)])
def test_the_drivers_stamp_is_taken_only_when_plausible(age_s: float, trusted: bool) -> None:
    driver_ms = time.monotonic() * 1e3 - age_s * 1e3
    shot = CameraDevice(FakeCapture(driver_ms), os.devnull, QUICK, Stop()).read()
    assert (abs(shot.stamp_ns - driver_ms * 1e6) < 1e4) == trusted


def _capture_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("capture-")]

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from perception.errors import SourceError
from perception.sources.stop import Stop
from perception.sources.stream import open_stream
from perception.sources.url import open_source
from tests.source_fakes import QUICK, MjpegCamera, reading, wait_until

SYSTEM_PYTHON = shutil.which("python3", path=os.defpath)  # GStreamer's bindings live there, not in our environment

RTSP_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=red ! video/x-raw,width=160,height=120,framerate=30/1,format=I420 ! jpegenc"
    " ! rtpjpegpay name=pay0 )"
)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def camera(port: int = 0, password: str = "") -> Iterator[MjpegCamera]:
    server = MjpegCamera(port, password)
    try:
        yield server
    finally:
        server.stop()


def test_an_http_camera_gives_rgb_frames() -> None:
    with camera() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/video", camera="front", timing=QUICK)
        with reading(source) as frames:
            wait_until(lambda: len(frames) >= 5, "frames")
    assert all(frame.image.shape == (48, 64, 3) and frame.image.flags.c_contiguous for frame in frames)
    red, green, blue = frames[0].image[20, 20]
    assert red > 80
    assert max(green, blue) < 20
    assert all(b.stamp_ns > a.stamp_ns for a, b in pairwise(frames))
    assert len({frame.image.ctypes.data for frame in frames}) == len(frames)


def test_a_stalled_camera_is_noticed_and_comes_back() -> None:
    with camera() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/video", camera="front", timing=QUICK)
        with reading(source) as frames:
            wait_until(lambda: len(frames) >= 3, "frames")
            server.mode = "stall"
            assert wait_until(lambda: source.status().state == "stalled", "stalled") < QUICK.stall_s + 0.2
            wait_until(lambda: source.status().state == "reopening", "given up")
            assert source.status().reason == "the stream broke off: no answer in time"
            server.mode = "run"
            count = len(frames)
            assert wait_until(lambda: len(frames) > count, "a frame") < 1.5
            wait_until(lambda: source.status().state == "running", "running")


def test_a_camera_that_vanishes_is_found_again_at_the_same_address() -> None:
    with camera() as server:
        port = server.port
        source = open_source(f"http://127.0.0.1:{port}/video", camera="front", timing=QUICK)
        with reading(source) as frames:
            wait_until(lambda: len(frames) >= 3, "frames")
            server.stop()
            wait_until(lambda: "can't connect" in source.status().reason, "gone")
            assert source.status().state == "reopening"
            count = len(frames)
            with camera(port):
                assert wait_until(lambda: len(frames) > count, "a frame") < 1.5
            source.close()


def test_broken_pictures_are_dropped_and_counted() -> None:
    with camera() as server:
        source = open_source(
            f"http://127.0.0.1:{server.port}/video", camera="front", timing=replace(QUICK, broken_limit=10**6)
        )
        with reading(source) as frames:
            wait_until(lambda: len(frames) >= 3, "frames")
            server.mode = "broken"
            wait_until(lambda: source.status().broken >= 3, "broken frames")
            count = len(frames)
            server.mode = "run"
            wait_until(lambda: len(frames) > count, "good ones again")
            assert source.status().reopened == 0
    assert all(frame.image[20, 20, 1] < 20 for frame in frames)  # no half picture, filled up with grey


def test_a_camera_that_changes_its_size_is_reopened_with_it() -> None:
    with camera() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/video", camera="front", timing=QUICK)
        with reading(source) as frames:
            wait_until(lambda: len(frames) >= 3, "frames")
            server.size = (96, 80)
            wait_until(lambda: source.info().width == 96, "the new size")
            wait_until(lambda: frames[-1].image.shape == (80, 96, 3), "a frame")
            assert source.status().broken >= QUICK.broken_limit


def test_credentials_work_and_never_show(caplog: pytest.LogCaptureFixture) -> None:
    with camera(password="hunter22") as server, caplog.at_level(logging.DEBUG):
        good = open_source(f"http://user:hunter22@127.0.0.1:{server.port}/v?token=abc123", camera="a", timing=QUICK)
        with reading(good) as frames:
            wait_until(lambda: len(frames) >= 1, "a frame")
        bad = open_source(f"http://user:wrongpw9@127.0.0.1:{server.port}/v?token=abc123", camera="b", timing=QUICK)
        with reading(bad):
            wait_until(lambda: bad.status().reopened > 1, "refused")
            reason = bad.status().reason
    assert "401" in reason
    for secret in ("hunter22", "wrongpw9", "abc123"):
        assert secret not in reason + caplog.text


def test_a_peer_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://root:hunter22@127.0.0.1:{silent.getsockname()[1]}/video"
        took_s = wait_until(lambda: _fails(url), "given up")
    assert took_s < 4 * QUICK.timeout_s


def _fails(url: str) -> bool:
    with pytest.raises(SourceError, match="can't connect") as caught:
        open_stream(url, QUICK, Stop())
    text = repr(caught.value) + repr(caught.value.__cause__)
    assert "hunter22" not in text
    assert "\n" not in str(caught.value)
    return True


def test_a_page_that_is_no_video_is_named() -> None:
    with camera(password="x") as server, pytest.raises(SourceError, match="can't connect"):
        open_stream(f"http://127.0.0.1:{server.port}/", QUICK, Stop())


def _has_rtsp_server() -> bool:
    if SYSTEM_PYTHON is None:
        return False
    program = "import gi; gi.require_version('GstRtspServer', '1.0')"
    return subprocess.run([SYSTEM_PYTHON, "-c", program], capture_output=True, check=False).returncode == 0


@contextmanager
def rtsp_server(tmp_path: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    script = tmp_path / "rtsp_server.py"
    script.write_text(RTSP_SERVER)
    assert SYSTEM_PYTHON is not None
    with subprocess.Popen([SYSTEM_PYTHON, str(script), str(port)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.skipif(not _has_rtsp_server(), reason="GStreamer's RTSP server (GstRtspServer) is not installed")
def test_an_rtsp_camera_that_freezes_and_is_replaced(tmp_path: Path) -> None:
    timing = replace(QUICK, timeout_s=1.0, stall_s=0.3)
    with rtsp_server(tmp_path) as (process, port):
        source = open_source(f"rtsp://127.0.0.1:{port}/cam", camera="front", timing=timing)
        with reading(source) as frames:
            wait_until(lambda: len(frames) >= 5, "frames")
            red, green, _ = frames[-1].image[60, 80]
            assert red > 200 > 40 > green
            process.send_signal(signal.SIGSTOP)
            assert wait_until(lambda: source.status().state == "stalled", "stalled") < timing.stall_s + 0.2
            wait_until(lambda: source.status().state == "reopening", "given up")
            process.kill()
            process.wait()
            count = len(frames)
            with rtsp_server(tmp_path, port):
                wait_until(lambda: len(frames) > count, "frames of the new server", 8)
                source.close()

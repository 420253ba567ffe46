from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from perception.errors import PerceptionError, SourceError
from perception.sources.live import LiveSource
from perception.sources.redact import one_line, redact, secrets_of
from perception.sources.replay import ReplaySource
from perception.sources.url import FORMS, open_source
from tests.source_fakes import QUICK, reading, wait_until


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "camera:0",
        "camera:0?width=640",
        "/dev/video17",
        "v4l2:///dev/video0?width=1280&height=720&fps=30&fourcc=MJPG",
        "v4l2:/dev/video0",
        "rtsp://cam/stream",
        "rtsps://u:p@cam:322/stream?channel=1",
        "http://[::1]:8080/video",
        "HTTPS://cam/video.mjpg",
        "exec:cat /dev/null",
    ],
)
def test_live_forms_open_even_when_the_camera_is_absent(text: str) -> None:
    source = open_source(text, camera="front")
    assert isinstance(source, LiveSource)
    assert source.status().state == "starting"
    source.close()


@pytest.mark.parametrize(
    "text", ["", "rendered:", "rendered:?seed=1&frames=300", "rendered:?width=640&height=360&fps=20"]
)
def test_rendered_forms(text: str) -> None:
    assert isinstance(open_source(text, camera="front"), ReplaySource)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/drive.mp4", "unknown form ftp: give one of: a video file"),
        ("webcam", "no such file or folder: give one of: a video file"),
        ("camera:front", "'front' names no camera"),
        ("camera:", "names no camera"),
        ("camera:0?witdh=3", "unknown option 'witdh': known here: fourcc, width, height, fps"),
        ("camera:0?width=wide", "width='wide' must be a whole number from 1 to 16384"),
        ("camera:0?width=-1", "must be a whole number"),
        ("camera:0?fps=nan", "fps='nan' must be a number above 0"),
        ("camera:0?fourcc=MJPEG", "fourcc='MJPEG' must be four letters"),
        ("camera:0?width=1&width=2", "write each option once"),
        ("camera:0?width", "write each option once, as key=value"),
        ("rtsp://", "not an address"),
        ("rtsp:cam", "not an address"),
        ("http://cam:99999/x", "not an address"),
        ("http://[::1/x", "not an address"),
        ("http://cam/a b", "not an address"),
        ("gst:", "empty: give a GStreamer pipeline"),
        ("exec:", "empty: give a command"),
        ("exec:'unbalanced", "no closing quotation"),
        ("exec:no-such-program -x", "no program 'no-such-program' on the PATH"),
        ("rendered:seed=1", "'seed=1' is not an option"),
        ("rendered:?frames=0", "frames='0' must be a whole number from 1"),
        ("rendered:?sead=1", "unknown option 'sead': known here: seed, frames, width, height, fps"),
        ("a\0b", "NUL byte"),
    ],
)
def test_what_can_never_work_fails_at_once_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(text, camera="front")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["000.png", "notes.txt", ""])
def test_a_topic_of_a_folder_that_is_no_bag(tmp_path: Path, file: str) -> None:
    if file:
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(SourceError, match=r"no bag: there is no metadata\.yaml in it") as caught:
        open_source(f"{tmp_path}?topic=/cam/image_raw", camera="front")
    assert "unknown option" not in str(caught.value)


@pytest.mark.parametrize("options", ["", "?from=1"])
def test_a_drive_in_a_folder_that_is_shut(tmp_path: Path, options: str) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    with as_nobody(), pytest.raises(SourceError, match=r"drive\.mp4(\?from=1)?: permission denied$"):
        open_source(f"{tmp_path}/shut/drive.mp4{options}", camera="front")


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to go anywhere; a user has none."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_the_forms_name_every_scheme() -> None:
    for form in ("rendered:", "camera:", "v4l2:", "gst:", "exec:", "rtsp:", "http", "FIFO", "folder"):
        assert form in FORMS


def test_an_absent_camera_says_so_in_its_status() -> None:
    source = open_source("camera:93", camera="front", timing=QUICK)
    with reading(source):
        wait_until(lambda: source.status().state == "reopening", "reopening")
        assert source.status().reason == "/dev/video93: no such device: plug the camera in or name another one"


def test_a_device_that_is_no_camera_says_so_in_its_status() -> None:
    source = open_source("/dev/null", camera="front", timing=QUICK)
    with reading(source):
        wait_until(lambda: "can't be opened as a camera" in source.status().reason, "noticed")


@pytest.mark.parametrize(
    "text",
    [
        "ftp://user:hunter22@host/x",
        "rtsp://user:hunter22@",
        "http://cam:99999/x?password=hunter22",
        "no/file?token=hunter22",
        "exec:'unbalanced rtsp://user:hunter22@cam/",
        "exec:no-such-program rtsp://user:hunter22@cam/",
        "rtspx://us er:hunter22@cam/",
    ],
)
def test_errors_hide_credentials(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(text, camera="front")
    assert "hunter22" not in repr(caught.value)
    assert "hunter22" not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:pw@cam:554/a", "rtsp://***@cam:554/a"),
        ("rtsp://token@cam/a", "rtsp://***@cam/a"),
        ("rtsp://user:p@ss/w@cam/a", "rtsp://***@cam/a"),
        ("http://cam/v?user=a&password=b&x=1", "http://cam/v?user=a&password=***&x=1"),
        ("http://cam/v?API_KEY=b;access_token=c", "http://cam/v?API_KEY=***;access_token=***"),
        ("rtsp://cam/user=admin_password=tlJwpbo6_channel=1", "rtsp://cam/user=admin_password=***"),
        ('rtspsrc location=rtsp://cam user-pw="a b" ! x', "rtspsrc location=rtsp://cam user-pw=*** ! x"),
        ("curl -H 'Authorization: Basic dXNlcg==' x", "curl -H 'Authorization: Basic ***' x"),
        ("http://cam/v?width=1&fps=2", "http://cam/v?width=1&fps=2"),
        ("drive.mp4", "drive.mp4"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_secrets_are_hidden_where_no_url_is_around_them() -> None:
    url = "rtsp://admin:p%40ssword@cam/a?token=abcd1234"
    assert set(secrets_of(url)) == {"p%40ssword", "p@ssword", "abcd1234"}
    assert one_line("bad login with p@ssword,\n  abcd1234", url) == "bad login with ***, ***"
    assert len(one_line("x" * 1000)) == 300


def test_the_rendered_drive_is_a_replay() -> None:
    url = "rendered:?seed=4&frames=3&width=64&height=36&fps=10"
    source = open_source(url, camera="front", loop=True)
    frames = list(islice(source, 6))
    assert [(frame.seq, frame.stamp_ns) for frame in frames] == [(i, i * 10**8) for i in range(6)]
    assert all(frame.image.shape == (36, 64, 3) and frame.image.flags.c_contiguous for frame in frames)
    assert len({frame.image.ctypes.data for frame in frames}) == 6
    assert np.array_equal(frames[1].image, frames[4].image)
    assert (source.info().width, source.info().fps, source.info().clock) == (64, 10.0, "drive")
    other = open_source(url.replace("4", "5", 1), camera="front")
    assert source.info().identity != other.info().identity


def test_a_drive_that_can_not_be_rendered_is_refused_at_once() -> None:
    with pytest.raises(PerceptionError, match="500"):
        open_source("rendered:?fps=500", camera="front")


def test_choosing_a_source_loads_only_what_it_needs() -> None:
    program = (
        "import sys\n"
        "from perception.sources.url import open_source\n"
        "open_source('camera:0', camera='front')\n"
        "print([name for name in ('av', 'perception.drives.rendered') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

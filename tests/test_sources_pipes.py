from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from perception.errors import SourceError
from perception.protocols import Source
from perception.sources.child import open_command
from perception.sources.stop import Stop
from perception.sources.url import open_source
from tests.source_fakes import QUICK, Y4M_CHILD, reading, wait_until, y4m_frame, y4m_header


def child(tmp_path: Path, count: int, end: str, period_s: float = 0.01) -> tuple[Source, Path]:
    """A source fed by a Python process that writes `count` frames and then behaves like `end`, and its pid file."""
    script, pids = tmp_path / "child.py", tmp_path / "pids"
    script.write_text(Y4M_CHILD)
    command = shlex.join([sys.executable, "-S", str(script), str(count), str(period_s), end, str(pids)])
    return open_source(f"exec:{command}", camera="front", timing=QUICK), pids


def started(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()] if pids.exists() else []


def test_a_child_process_gives_frames_and_ends_with_its_source(tmp_path: Path) -> None:
    source, pids = child(tmp_path, 10_000, "hang")
    with reading(source) as frames:
        wait_until(lambda: len(frames) >= 5, "frames")
        assert source.status().state == "running"
        assert source.info().fps == 30.0
    assert frames[0].image.shape == (48, 64, 3)
    # Luma 16 + i with neutral chroma is grey (i * 255 / 219) in limited range.
    assert abs(int(frames[3].image[0, 0, 0]) - round(frames[3].seq % 200 * 255 / 219)) <= 1
    assert len({int(frame.image[0, 0, 0]) for frame in frames}) == len(frames)  # no memory is used twice
    wait_until(lambda: not psutil.pid_exists(started(pids)[0]), "the child is gone")


def test_a_frozen_child_stalls_and_is_replaced(tmp_path: Path) -> None:
    source, pids = child(tmp_path, 10_000, "hang")
    with reading(source) as frames:
        wait_until(lambda: len(frames) >= 3, "frames")
        os.kill(started(pids)[0], signal.SIGSTOP)
        took_s = wait_until(lambda: source.status().state == "stalled", "stalled")
        assert took_s < QUICK.stall_s + 0.2
        wait_until(lambda: source.status().state == "reopening", "given up")
        assert "no frame for 0.4 s" in source.status().reason
        count = len(frames)
        wait_until(lambda: len(frames) > count and source.status().state == "running", "frames of a new child")
        assert not psutil.pid_exists(started(pids)[0])
    assert len(started(pids)) == 2


def test_a_dying_childs_last_words_are_the_reason(tmp_path: Path) -> None:
    source, pids = child(tmp_path, 3, "die")
    reasons = set()
    with reading(source) as frames:

        def twice() -> bool:
            reasons.add(source.status().reason)
            return len(started(pids)) >= 3 and len(frames) >= 6

        wait_until(twice, "restarted twice")
    assert any("exit code 1: cable rtsp://***@cam/ on fire" in reason for reason in reasons)
    assert not any("hunter22" in reason for reason in reasons)


def test_garbage_from_a_child_reopens_it(tmp_path: Path) -> None:
    source, pids = child(tmp_path, 3, "garble")
    with reading(source) as frames:
        wait_until(lambda: "garbage" in source.status().reason, "noticed")
        wait_until(lambda: len(started(pids)) >= 2 and len(frames) > 3, "restarted")
    assert all(frame.image.shape == (48, 64, 3) for frame in frames)


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    script = tmp_path / "group.sh"
    pids = tmp_path / "pids"
    script.write_text(f"trap '' TERM\nsleep 60 &\necho $$ $! > {pids}\nwait\n")
    device = open_command(["sh", str(script)], QUICK, Stop())
    wait_until(lambda: len(started(pids)) == 2, "both run")
    device.close()
    for pid in started(pids):
        wait_until(lambda pid=pid: not psutil.pid_exists(pid) or _is_zombie(pid), "gone")
    device.close()


def test_a_child_that_writes_much_to_stderr_is_not_blocked(tmp_path: Path) -> None:
    script = tmp_path / "talker.py"
    script.write_text(
        "import sys\n"
        "out = sys.stdout.buffer\n"
        "sys.stderr.write('warning\\n' * 50_000)\n"
        f"out.write({y4m_header()!r} + {y4m_frame(80)!r})\n"
        "out.flush()\n"
        "sys.stderr.write('talk\\n' * 50_000)\n"
        "sys.exit('the end')\n"
    )
    device = open_command([sys.executable, "-S", str(script)], QUICK, Stop())
    assert device.read().image is not None
    with pytest.raises(SourceError, match="exit code 1: the end"):
        device.read()
    device.close()


def test_children_of_a_program_that_just_exits_are_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "child.py"
    script.write_text(Y4M_CHILD)
    command = shlex.join([sys.executable, "-S", str(script), "3", "0.01", "stubborn", str(pids)])
    program = (
        "from perception.sources.url import open_source\n"
        f"print(next(iter(open_source({f'exec:{command}'!r}, camera='front'))).seq)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")
    assert not psutil.pid_exists(started(pids)[0])


def test_descriptors_and_children_do_not_leak(tmp_path: Path) -> None:
    process = psutil.Process()
    before, others = process.num_fds(), set(process.children())
    source, pids = child(tmp_path, 2, "die", period_s=0)
    with reading(source):
        wait_until(lambda: len(started(pids)) >= 4, "restarts")
    wait_until(lambda: process.num_fds() <= before and others >= set(process.children()), "all closed")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"RIFF....AVI LIST", "does not carry YUV4MPEG2"),
        (b"YUV4MPEG2" * 100, "no line end in 256 bytes"),
        (b"YUV4MPEG2 W65 H48 F30:1\n", "65x48 pixels: both must be even"),
        (b"YUV4MPEG2 W99999 H99999 F30:1\n", "at most 64000000"),
        (b"YUV4MPEG2 H48\n", "0x48 pixels"),
        (b"YUV4MPEG2 W64 H48 F30:1 C444\n", "-pix_fmt yuv420p"),
        (b"YUV4MPEG2 W64 H48 F30:1 C420p10\n", "-pix_fmt yuv420p"),
        (y4m_header() + b"FRAME\n" + b"1234", "exit code 0"),
        (y4m_header() + b"\n", "garbage"),
    ],
    ids=["avi", "no-line", "odd", "bomb", "no-width", "444", "10-bit", "cut-off", "no-frame"],
)
def test_what_is_not_y4m_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    device = open_command(["cat", str(path)], QUICK, Stop())
    with pytest.raises(SourceError, match=message):
        device.read()
    device.close()


def test_grey_y4m_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"YUV4MPEG2 W4 H2 F25:2 Cmono\nFRAME\n" + bytes([9]) * 8)
    device = open_command(["cat", str(path)], QUICK, Stop())
    image = device.read().image
    assert image is not None
    assert image.tolist() == [[[9] * 3] * 4] * 2
    assert device.fps == 12.5
    device.close()


def test_a_fifo_is_live_and_survives_its_writers(tmp_path: Path) -> None:
    fifo = tmp_path / "camera"
    os.mkfifo(fifo)
    source = open_source(str(fifo), camera="front", timing=QUICK)
    with reading(source) as frames:
        wait_until(lambda: source.status().state == "stalled", "no writer yet")
        for count in (1, 2):
            with fifo.open("wb") as writer:
                writer.write(y4m_header() + y4m_frame(60))
                writer.flush()
                wait_until(lambda count=count: len(frames) >= count, "a frame")
            wait_until(lambda: source.status().state in ("reopening", "stalled"), "the writer left")
            assert source.status().reason == "the pipe was closed by its writer"
            wait_until(lambda count=count: source.status().reopened == count, "opened again")


def test_a_gstreamer_pipeline_is_run_by_gst_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = tmp_path / "arguments"
    frames_file = tmp_path / "frames"
    frames_file.write_bytes(y4m_header() + y4m_frame(50) * 3)
    fake = tmp_path / "gst-launch-1.0"
    fake.write_text(
        f'#!/bin/sh\nfor word in "$@"; do echo "$word" >> {arguments}; done\necho noise on stdout\n'
        f'for fd in "$@"; do :; done\ncat {frames_file} > /proc/self/fd/${{fd#fd=}}\nsleep 60\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = open_source('gst:videotestsrc ! "video/x-raw, width=64" ! queue', camera="front", timing=QUICK)
    with reading(source) as frames:
        wait_until(lambda: len(frames) >= 1, "a frame")
    words = arguments.read_text().splitlines()
    assert words[:6] == ["-q", "videotestsrc", "!", "video/x-raw, width=64", "!", "queue"]
    assert words[-2:-1] == ["fdsink"]


def test_without_gstreamer_the_setting_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"gst-launch-1\.0 is not on the PATH: install gstreamer1\.0-tools"):
        open_source("gst:videotestsrc", camera="front")


@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed")
def test_a_real_gstreamer_pipeline() -> None:
    pipeline = "videotestsrc is-live=true pattern=red ! video/x-raw, width=160, height=120, framerate=30/1"
    source = open_source(f"gst:{pipeline}", camera="front", timing=replace(QUICK, first_timeout_s=8))
    with reading(source) as frames:
        wait_until(lambda: len(frames) >= 3, "frames", 10)
    red = frames[0].image[60, 80]
    assert red[0] > 240
    assert red[1:].max() < 15


@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed")
def test_a_gstreamer_pipeline_with_a_mistake_says_which() -> None:
    source = open_source("gst:nosuchelement", camera="front", timing=QUICK)
    with reading(source):
        wait_until(lambda: "nosuchelement" in source.status().reason, "said", 8)


def _is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_closing_before_the_first_frame_is_quick(tmp_path: Path) -> None:
    source, _ = child(tmp_path, 0, "hang")
    with reading(source):
        source.close()
    assert source.status().state == "ended"


def test_reading_on_after_close_ends(tmp_path: Path) -> None:
    stop = Stop()
    device = open_command(["sleep", "60"], QUICK, stop)
    stop.set()
    with pytest.raises(SourceError, match="closed"):
        device.read()
    device.close()

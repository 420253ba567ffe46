from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from perception.errors import SourceError
from perception.sources.video import VideoReader
from tests.source_fakes import check_replay, picture, replay, wait_until, write_video

DRIVES = Path(__file__).parents[2] / "shared" / "data" / "drives"

JITTERED = [0, 33, 61, 100, 134, 467, 500, 533, 570, 600]


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_videos_stamps_are_exact_and_no_frame_is_lost(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_video(tmp_path / f"drive.{suffix}", [100 + pts for pts in JITTERED], codec=codec)
    source = replay(path)
    frames = list(source)
    check_replay(frames, (64, 48))
    assert [frame.stamp_ns for frame in frames] == [pts * 1_000_000 for pts in JITTERED]
    assert [frame.seq for frame in frames] == list(range(10))
    assert all(b.image.mean() > a.image.mean() for a, b in pairwise(frames))
    status = source.status()
    assert (status.state, status.captured, status.dropped, status.broken) == ("ended", 10, 0, 0)


def test_stamps_in_odd_time_bases_do_not_drift(tmp_path: Path) -> None:
    base = Fraction(1001, 30000)
    path = write_video(tmp_path / "drive.mp4", range(40), time_base=base)
    assert [f.stamp_ns for f in replay(path)] == [round(i * base * 10**9) for i in range(40)]


def test_an_odd_size_is_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.avi", range(0, 200, 40), size=(101, 75), codec="mjpeg")
    frames = list(replay(path))
    check_replay(frames, (101, 75))


def test_two_replays_are_equal_and_named_by_their_content(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    copy = shutil.copy(path, tmp_path / "copy.mp4")
    first, second = replay(path), replay(copy)
    for a, b in zip(first, second, strict=True):
        assert (a.seq, a.stamp_ns) == (b.seq, b.stamp_ns)
        assert np.array_equal(a.image, b.image)
    info = first.info()
    assert info == second.info()
    assert (info.width, info.height, info.clock, len(info.identity)) == (64, 48, "drive", 16)
    assert 0 < info.fps < 100


def test_a_slow_reader_loses_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", range(0, 600, 30))
    seqs = []
    for frame in replay(path):
        time.sleep(0.01)
        seqs.append(frame.seq)
    assert seqs == list(range(20))


def test_a_loop_goes_on_with_rising_stamps_and_seq(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    source = replay(path, loop=True)
    frames = list(islice(source, 25))
    check_replay(frames, (64, 48))
    assert [frame.seq for frame in frames] == list(range(25))
    for a, b in zip(frames, frames[10:], strict=False):
        assert np.array_equal(a.image, b.image)
    assert frames[10].stamp_ns > 600_000_000
    assert frames[15].stamp_ns - frames[10].stamp_ns == 467_000_000


def test_real_time_keeps_to_the_stamps_and_skips_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", range(0, 600, 30))
    begin_s, ages = 0.0, []
    for frame in replay(path, realtime=True):
        begin_s = begin_s or time.monotonic() - frame.stamp_ns / 1e9
        ages.append(time.monotonic() - begin_s - frame.stamp_ns / 1e9)
        if frame.seq == 3:
            time.sleep(0.3)
    assert len(ages) == 20
    assert min(ages) > -0.005
    assert ages[-1] < 0.15  # the late reader has caught up


@pytest.mark.parametrize("how", ["thread", "signal"])
def test_close_interrupts_the_pacing(tmp_path: Path, how: str) -> None:
    path = write_video(tmp_path / "drive.mp4", [0, 30_000])
    source = replay(path, realtime=True)
    before = signal.signal(signal.SIGUSR1, lambda *_: source.close())
    act = source.close if how == "thread" else lambda: os.kill(os.getpid(), signal.SIGUSR1)
    timer = threading.Timer(0.1, act)
    timer.start()
    begin = time.monotonic()
    frames = list(source)
    assert time.monotonic() - begin < 0.3
    assert len(frames) == 1
    assert (source.status().state, source.status().reason) == ("ended", "closed")
    source.close()
    timer.join()
    signal.signal(signal.SIGUSR1, before)


def test_no_thread_and_no_descriptor_is_left_when_the_reader_leaves_early(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", range(0, 900, 30))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for _frame in replay(path):
            break
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("replay-")], "threads end")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_source_is_read_once(tmp_path: Path) -> None:
    source = replay(write_video(tmp_path / "drive.mp4", JITTERED))
    list(source)
    with pytest.raises(SourceError, match="already being read"):
        iter(source)


def test_stamps_that_step_back_are_spaced_evenly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = write_video(tmp_path / "a.ts", range(0, 300, 30), codec="mpeg4")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() * 2)
    frames = list(replay(joined))
    check_replay(frames, (64, 48))
    assert len(frames) >= 18
    assert "had no rising stamp" in caplog.text


def bad_files(tmp_path: Path) -> dict[str, bytes]:
    whole = write_video(tmp_path / "whole.mp4", range(0, 3000, 30)).read_bytes()
    return {
        "empty.mp4": b"",
        "cut.mp4": whole[: len(whole) // 2],
        "noise.mp4": bytes(range(256)) * 100,
        "text.txt": b"not a video at all\n" * 50,
        "page.html": b"<html><body>404</body></html>",
        "list.m3u8": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": b"ffconcat version 1.0\nfile whole.mp4\n",
        "zero.png": b"",
        "cut.jpg": picture(".jpg", 200, 200)[:400],
    }


def test_every_bad_file_is_one_clear_line(tmp_path: Path) -> None:
    for name, data in bad_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(SourceError) as caught:
            replay(path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) > len(str(path)) + 10


@pytest.mark.parametrize(
    "text", ["missing.mp4", "missing/", "x" * 300 + ".mp4", "missing.png?fps=3", "file:///missing"]
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no such file or folder"):
        replay(text)


def test_a_sound_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(SourceError, match=r"sound\.wav: holds no video"):
        replay(path)


def test_a_file_that_is_cut_off_gives_its_frames_and_then_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mkv", range(0, 6000, 30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    frames = []
    source = replay(path)
    with pytest.raises(SourceError, match=r"of 6\.0 s that it declares: the file is cut off"):
        frames.extend(source)
    assert source.status().captured > 20
    assert "cut off" in source.status().reason


def held(path: Path, last_ms: int, options: dict[str, str] | None = None) -> Path:
    """Thirty frames in a second, the last of which is shown for longer."""
    base = Fraction(1, 1000)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = cast(VideoStream, container.add_stream("mpeg4", rate=30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        packets = []
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 33 * index, base
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in packets:
            packet.duration = last_ms if packet is packets[-1] else 33
            container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_last_frame_that_is_held_is_no_cut(tmp_path: Path, suffix: str) -> None:
    source = replay(held(tmp_path / f"drive.{suffix}", 3000))
    assert [frame.stamp_ns for frame in source] == [33_000_000 * i for i in range(30)]


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_held_frame_that_is_cut_off_is_missed(tmp_path: Path, kept: float) -> None:
    path = held(tmp_path / "drive.mp4", 3000, {"movflags": "faststart"})
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
        assert last.pos is not None
    path.write_bytes(path.read_bytes()[: last.pos + int(kept * last.size)])
    with pytest.raises(SourceError, match=r"of 4\.0 s that it declares: the file is cut off"):
        list(replay(path))


def test_damage_in_the_middle_costs_frames_and_not_the_run(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.avi", range(0, 3000, 30), codec="mjpeg", size=(160, 120))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    source = replay(path)
    frames = list(source)
    check_replay(frames, (160, 120))
    assert 50 < len(frames) < 100
    assert source.status().broken >= 1


def two_sizes(tmp_path: Path, *parts: tuple[int, int]) -> Path:
    joined = tmp_path / "joined.ts"
    data = b""
    for i, size in enumerate(parts):
        data += write_video(
            tmp_path / f"{i}.ts", range(1000 * i, 1000 * i + 300, 30), size=size, codec="libx264"
        ).read_bytes()
    joined.write_bytes(data)
    return joined


def test_a_video_that_changes_its_size_for_good_ends_with_an_error(tmp_path: Path) -> None:
    frames = []
    source = replay(two_sizes(tmp_path, (64, 48), (128, 96)))
    with pytest.raises(SourceError, match=r"change from 64x48 to 128x96 at frame 1\d and stay so"):
        frames.extend(source)
    check_replay(frames, (64, 48))
    assert len(frames) == 10
    assert source.status().broken == 10


def test_frames_of_another_size_are_left_out_when_others_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = replay(two_sizes(tmp_path, (64, 48), (128, 96), (64, 48)))
    frames = list(source)
    check_replay(frames, (64, 48))
    assert len(frames) == 20
    assert source.status().broken == 10
    assert len([r for r in caplog.records if "is broken: left out" in r.message]) == 1


@pytest.mark.skipif(not DRIVES.is_dir(), reason="../shared/data/drives is not here")
@pytest.mark.parametrize(
    ("name", "count", "fps"),
    [("08_driving.mp4", 124, 24), ("solidWhiteRight.mp4", 221, 25), ("carnd_vehicle_test_video.mp4", 38, 25)],
)
def test_real_drives_come_whole_and_with_exact_stamps(name: str, count: int, fps: int) -> None:
    reader = VideoReader(DRIVES / name)
    stamps = [shot.stamp_ns for shot in reader.shots()]
    assert stamps == [round(Fraction(i * 10**9, fps)) for i in range(count)]
    assert reader.restamped == 0

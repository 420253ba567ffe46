"""A part of a drive, and the pace at which it is played."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from perception.config import Launch
from perception.errors import SourceError
from perception.sources.pace import Pace
from perception.sources.replay import ReplaySource
from perception.sources.stop import Stop
from perception.sources.url import open_source
from perception.sources.video import VideoReader
from perception.types import Frame
from tests.source_fakes import check_replay, reading, replay, wait_until, write_video

JITTERED = [0, 33, 61, 100, 134, 467, 500, 533, 570, 600]


def moving_video(path: Path, codec: str, options: dict[str, str], gop: int = 12, count: int = 60) -> Path:
    """Jittered stamps and noise: a frame decoded from a wrong start would differ."""
    noise = np.random.default_rng(3)
    rand = random.Random(3)
    pts = 40
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = gop
        for i in range(count):
            image = noise.integers(0, 60, (48, 64, 3), np.uint8) + np.uint8(3 * i)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            pts += rand.choice((1, 1, 2))
            frame.pts = pts
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


X264 = {"preset": "veryfast", "bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12"}
FORMS = [
    ("mp4", "mpeg4", {}),
    ("mp4", "libx264", X264),
    ("mkv", "libx264", X264),
    ("ts", "libx264", X264),
    ("avi", "mjpeg", {}),
    ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
]


@pytest.mark.parametrize(("suffix", "codec", "options"), FORMS)
def test_a_range_of_a_video_has_the_frames_that_the_whole_has(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str]
) -> None:
    if codec == "mjpeg":
        path = write_video(tmp_path / f"drive.{suffix}", range(0, 60 * 40, 40), codec=codec)
    else:
        path = moving_video(tmp_path / f"drive.{suffix}", codec, options)
    reader = VideoReader(path)
    whole = list(reader.shots())
    ends = [shot.stamp_ns for shot in whole]
    for begin_ns in (0, 1, ends[11] + 1, ends[12], ends[12] + 1, ends[35], ends[-1]):
        got = [shot for shot in reader.shots(begin_ns) if shot.stamp_ns >= begin_ns]
        expected = [shot for shot in whole if shot.stamp_ns >= begin_ns]
        assert [(s.index, s.stamp_ns) for s in got] == [(s.index, s.stamp_ns) for s in expected]
        for a, b in zip(got, expected, strict=True):
            assert a.image is not None
            assert b.image is not None
            assert np.array_equal(a.image, b.image)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264")])
def test_a_late_range_is_not_decoded_from_the_start(tmp_path: Path, suffix: str, codec: str) -> None:
    reader = VideoReader(moving_video(tmp_path / f"drive.{suffix}", codec, X264))
    first = next(iter(reader.shots(1_800_000_000)))
    assert first.index >= 24


def test_a_video_whose_stamps_step_back_is_decoded_from_the_start(tmp_path: Path) -> None:
    first = write_video(tmp_path / "a.ts", range(0, 600, 30))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() * 2)
    whole = [(f.seq, f.stamp_ns) for f in replay(joined)]
    assert [(f.seq, f.stamp_ns) for f in replay(f"{joined}?from=0.7")] == [r for r in whole if r[1] >= 700_000_000]


def test_a_range_is_from_its_begin_to_before_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    source = replay(f"{path}?from=0.061&to=0.5")
    frames = list(source)
    check_replay(frames, (64, 48))
    assert [(f.seq, f.stamp_ns // 10**6) for f in frames] == [(2, 61), (3, 100), (4, 134), (5, 467)]
    assert source.status().captured == 4


def test_a_range_is_another_drive_for_the_run(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    names = {replay(f"{path}{more}").info().identity for more in ("", "?from=0.1", "?to=0.1", "?from=0.1&to=0.2")}
    assert len(names) == 4
    again = open_source(str(path), camera="front", begin_s=0.1, end_s=0.2)
    assert again.info().identity in names


def test_a_loop_over_a_range_goes_on_with_rising_stamps_and_seq(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    frames = list(islice(replay(f"{path}?from=0.1&to=0.5", loop=True), 7))
    check_replay(frames, (64, 48))
    assert [f.seq for f in frames] == [3, 4, 5, 6, 7, 8, 9]
    assert frames[4].stamp_ns - frames[3].stamp_ns == 34_000_000
    assert np.array_equal(frames[0].image, frames[3].image)


def test_folders_and_the_rendered_drive_take_a_range_too(picture_drive: Path) -> None:
    assert [f.seq for f in replay(f"{picture_drive}?fps=10&from=0.5&to=0.8")] == [5, 6, 7]
    url = "rendered:?seed=4&frames=6&width=64&height=36&fps=10"
    whole, part = list(replay(url)), list(replay(f"{url}&from=0.3&to=0.5"))
    assert [(f.seq, f.stamp_ns) for f in part] == [(3, 300_000_000), (4, 400_000_000)]
    assert np.array_equal(part[0].image, whole[3].image)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("?from=x", "from='x' must be 0 or more seconds"),
        ("?from=-1", "from='-1' must be 0 or more seconds"),
        ("?to=nan", "to='nan' must be 0 or more seconds"),
        ("?from=inf", "must be 0 or more seconds"),
        ("?from=2&to=2", "from 2 to 2 s is empty: give an end after the begin"),
        ("?form=2", "unknown option 'form': known here: from, to"),
        ("?from=0.7", "no frame from 0.7 s: its last one is at 0.600 s: give times within the drive"),
        ("?from=0.2&to=0.4", "no frame from 0.2 s to 0.4 s"),
    ],
)
def test_a_range_that_can_not_be_is_one_clear_line(tmp_path: Path, more: str, says: str) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    with pytest.raises(SourceError) as caught:
        list(replay(f"{path}{more}"))
    assert says in str(caught.value)


def test_a_range_is_given_once_and_for_a_recorded_source(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", JITTERED)
    with pytest.raises(SourceError, match="given twice"):
        open_source(f"{path}?from=0.1", camera="front", end_s=0.2)
    with pytest.raises(SourceError, match="a live source has no begin and no end"):
        open_source("camera:0", camera="front", begin_s=1.0)


@pytest.mark.parametrize("speed", [0, 0.05, 11, -1, math.nan, math.inf])
def test_a_speed_outside_a_tenth_to_ten_is_refused(speed: float) -> None:
    with pytest.raises(SourceError, match=r"must be from 0\.1 to 10"):
        Pace(speed)
    pace = Pace()
    with pytest.raises(SourceError, match=r"must be from 0\.1 to 10"):
        pace.speed = speed
    assert pace.speed == 1


@pytest.mark.parametrize(("speed", "expected_s"), [(0.5, 0.6), (1.0, 0.3), (10.0, 0.03)])
def test_the_speed_stretches_the_time_and_not_the_stamps(tmp_path: Path, speed: float, expected_s: float) -> None:
    path = write_video(tmp_path / "drive.mp4", range(0, 330, 30))
    source = open_source(str(path), camera="front", realtime=True, speed=speed)
    begin, ages = 0.0, []
    for frame in source:
        begin = begin or time.monotonic()
        ages.append(time.monotonic() - begin - frame.stamp_ns / 1e9 / speed)
    assert len(ages) == 11
    assert min(ages) > -0.005
    assert expected_s - 0.005 <= time.monotonic() - begin < expected_s + 0.5


def test_a_speed_can_be_changed_while_it_plays(tmp_path: Path) -> None:
    path = write_video(tmp_path / "drive.mp4", [0, 30, 60, 2000, 4000])
    source = open_source(str(path), camera="front", realtime=True)
    assert isinstance(source, ReplaySource)
    begin = 0.0
    for frame in source:
        begin = begin or time.monotonic()
        if frame.seq == 2:
            source.pace.speed = 10.0
    assert 0.35 < time.monotonic() - begin < 2


def drained(pace: Pace, stamps_ms: list[int], stop: Stop, got: list[int]) -> Callable[[], None]:
    def wait() -> None:
        for stamp in stamps_ms:
            if pace.wait(stamp * 10**6, stop):
                return
            got.append(stamp)

    return wait


def test_a_pause_holds_and_a_step_lets_one_frame_through() -> None:
    pace, stop, got = Pace(realtime=False), Stop(), []
    pace.pause()
    thread = threading.Thread(target=drained(pace, list(range(0, 100, 10)), stop, got))
    thread.start()
    for count in range(3):
        assert len(got) == count
        pace.step()
        wait_until(lambda n=count: len(got) == n + 1, "one frame")
    pace.step()
    pace.step()
    wait_until(lambda: len(got) == 5, "two steps are two frames")
    assert pace.is_paused
    pace.resume()
    thread.join(5)
    assert len(got) == 10


def test_time_stands_still_in_a_pause() -> None:
    pace, stop = Pace(), Stop()
    assert not pace.wait(0, stop)
    pace.pause()
    time.sleep(0.2)
    pace.resume()
    begin = time.monotonic()
    assert not pace.wait(100_000_000, stop)
    assert 0.05 < time.monotonic() - begin < 0.2


def test_after_steps_it_plays_on_from_where_it_stands() -> None:
    pace, stop, got = Pace(), Stop(), []
    pace.pause()
    thread = threading.Thread(target=drained(pace, [0, 60_000, 60_100], stop, got))
    thread.start()
    pace.step()
    pace.step()
    wait_until(lambda: len(got) == 2, "two frames, a minute apart")
    begin = time.monotonic()
    pace.resume()
    thread.join(5)
    assert got[-1] == 60_100
    assert time.monotonic() - begin < 2


def test_a_paused_source_can_be_closed(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "drive.mp4", JITTERED)), camera="front")
    assert isinstance(source, ReplaySource)
    source.pace.pause()
    frames: list[Frame]
    with reading(source) as frames:
        source.pace.step()
        wait_until(lambda: len(frames) == 1, "the first frame")
    assert source.status().state == "ended"


def test_the_run_is_of_the_range_and_not_of_the_speed(launch: Launch) -> None:
    from msgspec.structs import replace

    from perception.build import build_source, check_launch, replay_run

    def run(**more: float) -> str:
        changed = replace(launch, source=replace(launch.source, **more))
        return replay_run(check_launch(changed), build_source(changed).info().identity)

    assert run() == run(speed=0.5) != run(begin_s=0.1)
    assert run(begin_s=0.1) == run(begin_s=0.1, speed=2.0) != run(begin_s=0.1, end_s=0.3)

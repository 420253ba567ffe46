"""A drive that is moved while it is played: forth and back, in a pause, and from its end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.errors import SourceError
from perception.sources.replay import ReplaySource
from perception.sources.shots import Shot
from perception.sources.url import open_source
from tests.source_fakes import reading, wait_until, write_video

PERIOD_MS = 100


def opened(url: Path | str, **more: Any) -> ReplaySource:
    source = open_source(str(url), camera="front", **more)
    assert isinstance(source, ReplaySource)
    return source


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twenty frames in two seconds."""
    return write_video(tmp_path / "drive.mp4", range(0, 20 * PERIOD_MS, PERIOD_MS))


def test_a_drive_is_moved_forth_and_back_with_rising_seq_and_stamps(video: Path) -> None:
    source = opened(video)
    frames = iter(source)
    got = [next(frames)]
    for to_s in (1.5, None, 0.5):
        if to_s is not None:
            source.play(seek_s=to_s)
        got.append(next(frames))
    assert source.play().position_s == 0.5
    whole = [frame.image for frame in opened(video)]
    for frame, place in zip(got, (0, 15, 16, 5), strict=True):
        assert np.array_equal(frame.image, whole[place])
    assert all(b.seq > a.seq for a, b in pairwise(got))
    assert got[1].stamp_ns - got[0].stamp_ns > 2_000_000_000  # propagators then end what they knew
    assert got[2].stamp_ns - got[1].stamp_ns == PERIOD_MS * 1_000_000
    source.close()


def test_a_move_in_a_pause_shows_one_frame_and_stays_paused(video: Path) -> None:
    source = opened(video, realtime=True)
    source.play(pause=True)
    with reading(source) as frames:
        for n, to_s in enumerate((1.0, 0.2, 1.9), 1):
            source.play(seek_s=to_s)
            wait_until(lambda n=n: len(frames) == n, "it is there")
            assert source.play().position_s == to_s
        assert source.play().is_paused
        source.play(step=True, seek_s=0.4)
        wait_until(lambda: source.play().position_s >= 0.4, "it is there")


def test_a_drive_that_holds_waits_at_its_end_to_be_moved(video: Path) -> None:
    source = opened(video)
    source.holds = True
    with reading(source) as frames:
        wait_until(lambda: source.play().is_at_end, "it is at its end")
        assert len(frames) == 20
        source.play(seek_s=1.7)
        wait_until(lambda: len(frames) == 23, "it is there again")
        wait_until(lambda: source.play().is_at_end, "it is at its end again")
        source.play(seek_s=1.9)
        wait_until(lambda: len(frames) == 24, "the last one")
        assert source.play().position_s == 1.9


def test_a_range_is_moved_within_itself(video: Path) -> None:
    source = opened(video, begin_s=0.5, end_s=1.0)
    playing = source.play()
    assert (playing.begin_s, playing.end_s) == (0.5, 1.0)
    for to_s in (0.4, 1.1, -1.0, float("nan")):
        with pytest.raises(SourceError, match=r"is none of it: from 0\.5 to 1"):
            source.play(seek_s=to_s)
    frames = iter(source)
    next(frames)
    source.play(seek_s=0.8)
    assert len(list(frames)) == 2


def test_a_loop_goes_on_after_a_move(video: Path) -> None:
    source = opened(video, loop=True)
    frames = iter(source)
    next(frames)
    source.play(seek_s=1.8)
    assert [next(frames) and source.play().position_s for _ in range(4)] == [1.8, 1.9, 0.0, 0.1]
    source.close()


class Declaring:
    """Ten shots, one each 100 ms; says that it is longer, and may give nothing of what is before it is asked for."""

    name, width, height, fps = "declaring", 8, 6, 10.0

    def __init__(self, *, seeks: bool, broken_from: int = 10) -> None:
        self.seeks, self.broken_from = seeks, broken_from

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        for i in range(10):
            if i * 100_000_000 >= begin_ns or not self.seeks:
                image = np.full((6, 8, 3), i, np.uint8)
                yield Shot(image if i < self.broken_from else None, i * 100_000_000, i)

    def length_ns(self) -> int:
        return 20_000_000_000

    def identity(self) -> str:
        return "0" * 16


@pytest.mark.parametrize("seeks", [False, True])
def test_a_move_behind_the_last_frame_shows_the_last_one(seeks: bool) -> None:
    source = ReplaySource(Declaring(seeks=seeks), camera="front")
    frames = iter(source)
    first = next(frames)
    source.play(seek_s=17.0)
    (last,) = frames
    assert last.image[0, 0, 0] == 9
    assert source.play().position_s == 0.9
    assert last.stamp_ns - first.stamp_ns > 2_000_000_000
    assert source.status().reason == "end of the drive"


@pytest.mark.parametrize("seeks", [False, True])
def test_a_loop_goes_on_after_a_move_behind_the_last_frame(seeks: bool) -> None:
    source = ReplaySource(Declaring(seeks=seeks), camera="front", loop=True)
    frames = iter(source)
    next(frames)
    source.play(seek_s=17.0)
    got = [next(frames) for _ in range(3)]
    assert [int(frame.image[0, 0, 0]) for frame in got] == [9, 0, 1]
    assert all(b.seq > a.seq and b.stamp_ns > a.stamp_ns for a, b in pairwise(got))
    source.close()


def test_the_last_one_is_the_last_that_is_whole() -> None:
    source = ReplaySource(Declaring(seeks=True, broken_from=7), camera="front")
    frames = iter(source)
    next(frames)
    source.play(seek_s=17.0)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [6]


def test_a_drive_that_holds_shows_the_last_frame_behind_it() -> None:
    source = ReplaySource(Declaring(seeks=True), camera="front")
    source.holds = True
    with reading(source) as frames:
        wait_until(lambda: source.play().is_at_end, "it is at its end")
        source.play(seek_s=17.0)
        wait_until(lambda: len(frames) == 11, "the last one")
        assert source.play().position_s == 0.9


@pytest.mark.parametrize("form", ["rendered", "folder", "video"])
def test_a_drive_tells_its_length(picture_drive: Path, video: Path, form: str) -> None:
    url, expected = {
        "rendered": ("rendered:?frames=30", 1.0),
        "folder": (picture_drive, 19 / 30),
        "video": (video, 2.0),
    }[form]
    assert opened(url).play().end_s == pytest.approx(expected, abs=0.1)

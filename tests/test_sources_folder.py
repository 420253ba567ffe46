from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import pytest

from perception.errors import SourceError
from tests.source_fakes import check_replay, picture, replay


def folder(path: Path, names: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, data in names.items():
        (path / name).write_bytes(data)
    return path


def test_a_folder_is_read_in_natural_order_at_its_rate(tmp_path: Path) -> None:
    names = {f"frame{i}.png": picture(".png", value=10 * i) for i in (10, 2, 1)}
    path = folder(tmp_path / "drive", {**names, "notes.txt": b"x", ".hidden.png": b"x"})
    source = replay(f"{path}?fps=10")
    frames = list(source)
    check_replay(frames, (64, 48))
    assert [frame.image[0, 0].tolist() for frame in frames] == [[10, 0, 0], [20, 0, 0], [100, 0, 0]]
    assert [frame.stamp_ns for frame in frames] == [0, 100_000_000, 200_000_000]
    assert source.info().fps == 10


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp"])
def test_every_kind_of_picture_is_read(tmp_path: Path, suffix: str) -> None:
    path = folder(tmp_path / "drive", {f"a{suffix}": picture(suffix.lower())})
    frames = list(replay(path))
    assert abs(int(frames[0].image[5, 5, 0]) - 100) < 5
    assert len(list(replay(path / f"a{suffix}"))) == 1


@pytest.mark.parametrize(
    ("bad", "place"),
    [(b"", 0), (b"", 2), (picture(".jpg")[:300], 0), (b"noise" * 100, 2), (picture(".jpg", 32, 32), 2)],
    ids=["first-empty", "empty", "first-cut-off", "noise", "other-size"],
)
def test_one_broken_picture_is_left_out_with_one_warning(
    tmp_path: Path, bad: bytes, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    names = {f"{i}.jpg": bad if i == place else picture(".jpg") for i in range(5)}
    source = replay(folder(tmp_path / "drive", names), loop=True)
    with caplog.at_level(logging.WARNING):
        frames = list(islice(source, 8))
    check_replay(frames, (64, 48))
    assert [frame.seq for frame in frames] == [s for s in range(10) if s % 5 != place][:8]
    assert source.status().broken >= 1
    assert len(caplog.records) == 1


def test_a_folder_without_a_good_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no pictures in it"):
        replay(folder(tmp_path / "none", {"notes.txt": b"x"}))
    with pytest.raises(SourceError, match=r"none of its 2 pictures can be decoded; the first: .*empty"):
        replay(folder(tmp_path / "bad", {"1.png": b"", "2.png": b"x"}))


def test_a_folders_identity_is_its_content(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", {"1.png": picture(".png"), "2.png": picture(".png")})
    b = folder(tmp_path / "b", {"1.png": picture(".png"), "2.png": picture(".png")})
    c = folder(tmp_path / "c", {"1.png": picture(".png"), "2.png": picture(".png", value=101)})
    assert replay(a).info().identity == replay(b).info().identity != replay(c).info().identity


def test_a_picture_that_vanishes_is_broken_and_not_the_end(tmp_path: Path) -> None:
    path = folder(tmp_path / "drive", {f"{i}.png": picture(".png") for i in range(12)})
    source = replay(path)
    (path / "11.png").unlink()
    assert len(list(source)) == 11
    assert source.status().broken == 1

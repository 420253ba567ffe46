"""Folders of pictures with a stamps file: KITTI, TUM, EuRoC, and Cityscapes sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.errors import SourceError
from perception.sources.stamp_files import read_stamps
from tests.source_fakes import check_replay, picture, replay

KITTI = [
    "2011-09-26 13:02:25.964389445",
    "2011-09-26 13:02:26.067889792",
    "2011-09-26 13:02:26.171383040",
    "2011-09-26 13:02:26.274884608",
]
KITTI_NS = [0, 103_500_347, 206_993_595, 310_495_163]


def pictures(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).write_bytes(picture(Path(name).suffix, value=10 * i))
    return folder


def numbered(folder: Path, count: int = 4) -> Path:
    return pictures(folder, [f"{i:010}.png" for i in range(count)])


def kitti_raw(tmp_path: Path, lines: Sequence[str] = KITTI) -> Path:
    numbered(tmp_path / "drive" / "image_02" / "data")
    (tmp_path / "drive" / "image_02" / "timestamps.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "drive" / "image_02"


@pytest.mark.parametrize("inner", ["", "data"])
def test_kitti_raw_is_exact_to_the_nanosecond(tmp_path: Path, inner: str) -> None:
    source = replay(kitti_raw(tmp_path) / inner)
    frames = list(source)
    check_replay(frames, (64, 48))
    assert [(f.seq, f.stamp_ns) for f in frames] == list(enumerate(KITTI_NS))
    assert source.info().fps == pytest.approx(9.66, abs=0.01)


def test_kitti_odometry_has_its_times_beside_the_folder(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "00" / "image_2")
    (tmp_path / "00" / "times.txt").write_text("0.000000e+00\n1.038597e-01\n2.074880e-01\n3.112210e-01\n")
    assert [f.stamp_ns for f in replay(folder)] == [0, 103_859_700, 207_488_000, 311_221_000]


def test_a_drive_folder_names_the_folders_that_hold_pictures(tmp_path: Path) -> None:
    path = kitti_raw(tmp_path).parent
    with pytest.raises(SourceError, match="no pictures in it, but there are some in image_02: give one of these"):
        replay(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rgb.txt", "# color images\n# timestamp filename\n5.000000001 b.png\n5.5 a.png\n6.25 c.png\n"),
        ("stamps.csv", "stamp,filename\n5.000000001,b.png\n5.5,a.png\n6.25,c.png\n"),
        ("times.txt", "5000000001;b.png\r\n5500000000;a.png\r\n\r\n6250000000;c.png\r\n"),
    ],
)
def test_a_list_that_names_pictures_gives_their_order(tmp_path: Path, name: str, text: str) -> None:
    folder = pictures(tmp_path / "drive", ["a.png", "b.png", "c.png", "unlisted.png"])
    (folder / name).write_text(text)
    frames = list(replay(folder))
    assert [f.stamp_ns for f in frames] == [0, 499_999_999, 1_249_999_999]
    assert [int(f.image[0, 0, 0]) for f in frames] == [10, 0, 20]


TUM_NAMES = ["1305031102.175304.png", "1305031102.211214.png", "1305031102.275326.png"]


@pytest.mark.parametrize("inner", ["", "rgb"])
def test_tum_is_read(tmp_path: Path, inner: str) -> None:
    for folder in ("rgb", "depth"):
        pictures(tmp_path / "tum" / folder, [*TUM_NAMES, "1305031109.0.png"])
    head = "# color images\n# file: 'rgbd_dataset_freiburg1_xyz.bag'\n# timestamp filename\n"
    lines = "".join(f"{name.removesuffix('.png')} rgb/{name}\n" for name in TUM_NAMES)
    (tmp_path / "tum" / "rgb.txt").write_text(head + lines)
    source = replay(tmp_path / "tum" / inner)
    frames = list(source)
    check_replay(frames, (64, 48))
    assert [f.stamp_ns for f in frames] == [0, 35_910_000, 100_022_000]
    assert [int(f.image[0, 0, 0]) for f in frames] == [0, 10, 20]


def test_euroc_is_read(tmp_path: Path) -> None:
    pictures(tmp_path / "cam0" / "data", ["1403636579763555584.png", "1403636579813555456.png"])
    text = "#timestamp [ns],filename\n1403636579763555584,1403636579763555584.png\n"
    text += "1403636579813555456,1403636579813555456.png\n"
    (tmp_path / "cam0" / "data.csv").write_text(text)
    assert [f.stamp_ns for f in replay(tmp_path / "cam0")] == [0, 49_999_872]


def test_a_given_rate_is_used_instead_of_the_stamps(tmp_path: Path) -> None:
    path = kitti_raw(tmp_path)
    frames = list(replay(f"{path / 'data'}?fps=10"))
    assert [f.stamp_ns for f in frames] == [0, 10**8, 2 * 10**8, 3 * 10**8]


def test_a_picture_that_is_listed_and_not_there_is_broken(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "drive", ["a.png", "b.png"])
    (folder / "stamps.txt").write_text("1.0 a.png\n1.1 gone.png\n1.2 b.png\n")
    source = replay(folder)
    assert [f.seq for f in source] == [0, 2]
    assert source.status().broken == 1
    assert len(source.info().identity) == 16


def test_stamps_are_part_of_the_identity(tmp_path: Path) -> None:
    path = kitti_raw(tmp_path)
    first = replay(path).info().identity
    (path / "timestamps.txt").write_text("\n".join([*KITTI[:3], KITTI[3][:-1] + "9"]))
    assert replay(path).info().identity != first


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (KITTI[:3], "3 stamps for 4 pictures in"),
        ([*KITTI, "2011-09-26 13:02:27.5"], "5 stamps for 4 pictures in"),
        ([KITTI[0], KITTI[2], KITTI[1], KITTI[3]], "line 3: the stamp 2011-09-26 13:02:26.067889792 is not after"),
        ([KITTI[0], KITTI[0], *KITTI[2:]], "line 2: the stamp 2011-09-26 13:02:25.964389445 is not after"),
        ([], "holds no stamps"),
        (["2011-09-26 13:02:61.0"] * 4, "is no stamp"),
        (["0.1", "0.2", "what", "0.4"], "line 3: 'what' is no stamp: write seconds like 12.5"),
        (["0.1", "nan", "0.3", "0.4"], "line 2: 'nan' is no stamp"),
        (["0.1", "1e99", "0.3", "0.4"], "line 2: '1e99' is no stamp"),
        (["0", "1", "2", "3"], "whole numbers are nanoseconds and these are too close: write seconds like 1.0"),
        (["0.1 a.png", "0.2", "0.3", "0.4"], "some lines name a picture and some do not"),
        (["0.1 /etc/a.png"] * 1, "name pictures that are beside the list"),
        (["0.1 ../../a.png"] * 1, "name pictures that are beside the list"),
        (["0.1 none.png"] * 1, "none of the 1 pictures that it names is there"),
    ],
)
def test_stamps_that_do_not_fit_are_one_clear_line(tmp_path: Path, lines: list[str], says: str) -> None:
    path = kitti_raw(tmp_path, lines)
    with pytest.raises(SourceError) as caught:
        replay(path)
    assert says in str(caught.value)
    assert "timestamps.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stamps_file_that_is_no_text_says_so(tmp_path: Path) -> None:
    path = kitti_raw(tmp_path)
    (path / "timestamps.txt").write_bytes(b"\xff\xfe\0" * 100)
    with pytest.raises(SourceError, match="is no text"):
        replay(path)


@given(st.lists(st.integers(10**3, 10**12), min_size=1, max_size=50))
def test_seconds_with_nine_places_are_exact(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    path = tmp_path_factory.mktemp("stamps") / "times.txt"
    stamps = [1_305_031_102_175_304_321]
    for step in steps:
        stamps.append(stamps[-1] + step)
    path.write_text("".join(f"{ns // 10**9}.{ns % 10**9:09}\n" for ns in stamps))
    assert read_stamps(path).stamps_ns == tuple(ns - stamps[0] for ns in stamps)


@given(st.binary(max_size=200))
def test_any_bytes_are_stamps_or_a_clear_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("stamps") / "times.txt"
    path.write_bytes(data)
    said, stamps_ns = "", ()
    try:
        stamps_ns = read_stamps(path).stamps_ns
    except SourceError as error:
        said = str(error)
    assert bool(said) != bool(stamps_ns)
    assert "\n" not in said
    assert all(b > a for a, b in pairwise(stamps_ns))


def cityscapes(folder: Path, sequences: dict[str, Sequence[int]]) -> Path:
    return pictures(folder, [f"{s}_{i:06}_leftImg8bit.png" for s, frames in sequences.items() for i in frames])


def test_a_cityscapes_sequence_runs_at_17_hz(tmp_path: Path) -> None:
    source = replay(cityscapes(tmp_path / "aachen", {"aachen_000000": range(5)}))
    frames = list(source)
    assert [f.stamp_ns for f in frames] == [round(i * 1e9 / 17) for i in range(5)]
    assert source.info().fps == 17


def test_one_of_several_sequences_is_chosen(tmp_path: Path) -> None:
    path = cityscapes(tmp_path / "aachen", {"aachen_000000": range(3), "aachen_000001": [4, 5, 8]})
    with pytest.raises(SourceError) as caught:
        replay(path)
    assert "several sequences: aachen_000000 (3 pictures), aachen_000001 (3 pictures): choose one" in str(caught.value)
    assert "?sequence=aachen_000000" in str(caught.value)
    frames = list(replay(f"{path}?sequence=aachen_000001"))
    assert [f.stamp_ns for f in frames] == [0, round(1e9 / 17), round(4e9 / 17)]
    assert [f.stamp_ns for f in replay(f"{path}?sequence=aachen_000001&fps=10")] == [0, 10**8, 2 * 10**8]
    with pytest.raises(SourceError, match="no sequence 'ulm_000000': it holds aachen_000000"):
        replay(f"{path}?sequence=ulm_000000")


def test_single_pictures_of_cityscapes_are_a_plain_folder(tmp_path: Path) -> None:
    path = cityscapes(tmp_path / "ulm", {f"ulm_{i:06}": [19] for i in range(4)})
    assert [f.stamp_ns for f in replay(path)] == [round(i * 1e9 / 30) for i in range(4)]
    with pytest.raises(SourceError, match="not named like Cityscapes sequences"):
        replay(f"{path}?sequence=ulm_000000")

"""Which drives are meant by folders, patterns and lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from perception.errors import ConfigError
from perception.fleet.drive_set import content_hash, find_drives, parse_shard
from tests.fleet_fakes import held, picture_drive, recording, three_drives


def names(*texts: object, leave_out: tuple[Path, ...] = ()) -> list[str]:
    return [drive.name for drive in find_drives([str(text) for text in texts], leave_out)]


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    return three_drives(tmp_path / "drives")


def test_references_and_results_are_no_drives(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    shutil.move(tmp_path / "reference", drives / "reference")
    shutil.move(tmp_path / "out", drives / "out")
    assert names(drives, leave_out=(drives / "out",)) == ["tunnel", "walk0", "walk1"]


def test_a_folder_stands_for_the_drives_below_it(drives: Path):
    picture_drive(drives / "more" / "deep")
    (drives / "notes.md").write_text("not a drive")
    (drives / "clip.mp4").touch()
    assert names(drives) == ["clip", "deep", "tunnel", "walk0", "walk1"]


def test_a_folder_of_segments_is_one_drive(drives: Path):
    recording(drives / "long" / "0000.mcap", 3)
    assert names(drives / "long") == ["long"]
    assert "long" in names(drives)


def test_patterns_lists_and_repeats(drives: Path):
    (drives / "set.txt").write_text("# mine\nwalk0\n\n*.mcap  # the tunnel\nwalk0\n")
    assert names(drives / "walk*") == ["walk0", "walk1"]
    assert names(drives / "set.txt", drives / "walk0") == ["tunnel", "walk0"]


def test_a_listed_drive_that_is_not_there_stays_in_the_set(drives: Path):
    (drives / "set.txt").write_text("gone.mcap\n")
    assert names(drives / "set.txt") == ["gone"]


def test_options_belong_to_a_drive(drives: Path):
    assert names(f"{drives}/tunnel.mcap?from=0.1", "rendered:?seed=1&frames=3") == [
        "rendered-seed-1-frames-3",
        "tunnel-from-0.1",
    ]


@pytest.mark.parametrize("text", ["gone.mcap", "gone/*.mcap", "exec:date", "camera:0", "empty"])
def test_what_is_no_drive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError):
        find_drives([text])


def test_content_is_what_names_a_drive(drives: Path, tmp_path: Path):
    copy = shutil.copytree(drives / "walk0", tmp_path / "elsewhere")
    assert content_hash(str(copy)) == content_hash(str(drives / "walk0"))
    assert content_hash(str(drives / "walk1")) != content_hash(str(copy))
    assert content_hash(f"{copy}?from=1") != content_hash(str(copy))


@pytest.mark.parametrize(
    ("pictures", "stamps"),
    [("image_02/data", "image_02/timestamps.txt"), ("image_0", "times.txt"), ("rgb", "rgb.txt")],
)
def test_stamps_beside_a_folder_of_pictures_are_of_its_content(tmp_path: Path, pictures: str, stamps: str):
    folder, file = picture_drive(tmp_path / "drive" / pictures, frames=3), tmp_path / "drive" / stamps
    (file.parent / "notes.txt").write_text("of no drive")
    without = content_hash(str(folder))
    file.write_text("0\n1\n2\n")
    before = content_hash(str(folder))
    file.write_text("0\n2\n4\n")
    after = content_hash(str(folder))
    assert len({without, before, after}) == 3
    copy = shutil.copytree(tmp_path / "drive", tmp_path / "elsewhere") / pictures
    (file.parent / "notes.txt").unlink()
    assert content_hash(str(copy)) == after == content_hash(str(folder))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_shard_that_there_is_not(text: str):
    with pytest.raises(ConfigError, match="i/n"):
        parse_shard(text)

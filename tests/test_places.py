"""Where a result can't be written, that is said before the work that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception.conversion.redaction import redact
from perception.conversion.regions import RegionWishes
from perception.drives.places import require_writable
from perception.errors import RecordingError
from perception.replay.unit import replay_drive
from tests.test_cli import refused, say  # noqa: F401 (a fixture)

NO_DRIVE = "no-drive.mp4"
"""Work on it would end in another error."""


@pytest.mark.parametrize("words", [("video",), ("drive", "video"), ("picture", "--at", "1")])
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("there", "it is there already"),
        ("file/out", "can't be written: not a directory"),
        ("file/below/out", "can't be written: not a directory"),
        ("/proc/none/out", "can't be written: no such file or directory"),
    ],
)
def test_a_video_or_a_picture_that_can_not_be_written(say, tmp_path, monkeypatch, words, place, says):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    name = f"{place}.mp4" if "video" in words else f"{place}.png"
    (tmp_path / "there.mp4").touch()
    (tmp_path / "there.png").touch()
    before = sorted(tmp_path.rglob("*"))
    assert says in refused(say(*words, NO_DRIVE, "-o", name))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("there", "is there already"),
        ("file/result", "can't be written: not a directory"),
        ("/proc/none/result", "can't be written: no such file or directory"),
    ],
)
def test_a_result_that_can_not_be_written(tmp_path, place, says):
    (tmp_path / "file").touch()
    (tmp_path / "there").mkdir()
    with pytest.raises(RecordingError, match=says):
        replay_drive(str(tmp_path / NO_DRIVE), out=tmp_path / place)


def test_a_redacted_copy_that_can_not_be_written(tmp_path):
    (tmp_path / "there.mcap").touch()
    with pytest.raises(RecordingError, match="it is there already"):
        redact(tmp_path / NO_DRIVE, tmp_path / "there.mcap", RegionWishes())


def test_looking_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "a" / "b" / "c")
    require_writable(Path("here"))
    assert not list(tmp_path.iterdir())

"""A recording that lacks its end: whoever plays it is told so once, and nobody makes a reference of it."""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path

import pytest

from perception.drives.check import check_recording
from perception.drives.cut import Window, cut_recording
from perception.drives.recording import open_recording
from perception.drives.recover import recover
from perception.drives.segment import SegmentWriter
from perception.replay.shown import Wanted, shown
from perception.replay.unit import replay_drive
from perception.sources.url import open_reader
from tests import drive_fakes
from tests.fleet_fakes import picture_drive, recording, tiny_launch, wishes
from tests.recorded_drive import ABOUT, put, records_of, write_drive
from tests.test_cli import perception
from tests.test_recording import write_foreign

LAUNCH = ("--launch", "launch.toml")


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """A command in a folder with a tiny network and `cut.mcap`, a recording of 36 frames that was cut off."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    tiny_launch(tmp_path)
    cut_off(recording(tmp_path / "cut.mcap", 36))
    return lambda *words: perception(capsys, monkeypatch, *words)


def cut_off(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if "are there" in record.getMessage()]
    assert all(record.levelno == logging.WARNING for record in found)
    return [record.getMessage() for record in found]


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "cut.mcap", "--fast", "-e", "ipc://socket/front", *LAUNCH),
        ("replay", "cut.mcap", "-o", "result", *LAUNCH),
        ("replay", "cut.mcap", "--mode", "exact", *LAUNCH),
        ("video", "cut.mcap", "-o", "a.mp4", "--plain"),
        ("video", "cut.mcap", "-o", "a.mp4", "--model", "tiny.onnx", "--engine", "onnxruntime", "-t", "road"),
        ("picture", "cut.mcap", "--at", "0.1", "-o", "a.png", "--plain"),
        ("drive", "frames", "cut.mcap", "-o", "pictures"),
        ("drive", "convert", "cut.mcap", "-o", "a.mp4"),
        ("drive", "cut", "cut.mcap", "-o", "part.mcap"),
        ("test", "cut.mcap", "--against", "reference", *LAUNCH),
    ],
    ids=lambda words: " ".join(words[:4]),
)
def test_one_that_was_cut_off_is_told_once(say, caplog, words):
    say(*words)
    (line,) = told(caplog)
    frames = open_recording(Path("cut.mcap")).channels["/front/decisions"].count or 0
    assert 10 < frames < 25
    assert line == (
        f"cut.mcap: not finished: a crash left it, or it was cut off: {frames} frames, {(frames - 1) / 30:.1f} s are"
        " there: `perception drive recover` makes a whole recording of them"
    ).replace("cut.mcap: ", f"{Path('cut.mcap').resolve() if words[0] == 'test' else 'cut.mcap'}: ")


def test_masks_of_one_that_was_cut_off_are_shown_with_a_word(tmp_path, caplog):
    drive = cut_off(drive_fakes.make_drive(tmp_path / "cut.mcap", 20))
    with shown(str(drive), Wanted(0.0, None, wishes(tmp_path).launch), lambda *done: None) as found:  # type: ignore[arg-type]
        assert found.path == drive
    assert len(told(caplog)) == 1


def test_another_programs_file_without_its_end(tmp_path, caplog):
    path = tmp_path / "foreign.mcap"
    write_foreign(path)
    cut_off(path, 0.9)
    with caplog.at_level(logging.WARNING):
        words = {line.partition(": ")[2] for line in _read(path, caplog)}
    assert any("messages, " in word for word in words)


def _read(path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    from perception.drives.ending import warn_unclosed

    warn_unclosed(open_recording(path))
    return told(caplog)


def test_a_segment_of_several_lacks_the_last_one(tmp_path, caplog):
    drive = drive_fakes.make_drive(tmp_path / "drive", 20, segments=2)
    open_reader(str(drive / "0000.mcap"))
    assert "no certificate: its last segment is missing: 10 frames, 0.3 s are there" in told(caplog)[0]


def test_whole_ones_are_not_spoken_of(tmp_path, caplog):
    whole = write_drive(tmp_path / "drive")
    cut_recording(open_recording(whole), Window(1, 2), tmp_path / "part.mcap")
    cut_off(write_drive(tmp_path / "broken") / "0001.mcap")
    recover(tmp_path / "broken", tmp_path / "saved")
    result = tmp_path / "result"
    replay_drive(str(recording(tmp_path / "mine.mcap")), wishes(tmp_path).launch, result)
    for path in (whole, whole / "0001.mcap", tmp_path / "part.mcap", result, tmp_path / "saved"):
        _read(path, caplog)
        assert not any("no certificate" in fault or "not finished" in fault for fault in check_recording(path).faults)
    assert told(caplog) == []


@pytest.mark.parametrize("is_begun", [True, False])
def test_one_in_work_is_not_spoken_of(tmp_path, caplog, is_begun):
    folder = tmp_path / "drive"
    folder.mkdir()
    first = SegmentWriter(folder / "0000.mcap", ABOUT)
    put(first, records_of(0))
    if not is_begun:  # the next segment has its name, and nothing in it yet
        first.close()
        first = SegmentWriter(folder / "0001.mcap", ABOUT)
    try:
        assert _read(folder, caplog) == []
    finally:
        first.abandon()
    assert len(_read(folder, caplog)) == 1


def test_no_reference_is_made_of_one_that_was_cut_off(say, tmp_path):
    (tmp_path / "drives").mkdir()
    (tmp_path / "cut.mcap").rename(tmp_path / "drives" / "cut.mcap")
    picture_drive(tmp_path / "drives" / "walk")
    code, out, err = say("test", "drives", "--against", "reference", "--accept", *LAUNCH)
    assert code == 3
    assert "1 accepted" in out
    assert "1 failed" in out
    assert "cut.mcap: not finished: a crash left it" in err
    assert [path.name.partition("-")[0] for path in (tmp_path / "reference").iterdir()] == ["walk"]


def test_no_reference_is_made_of_one_in_work(say, tmp_path):
    active = cut_off(recording(tmp_path / "drive" / "0000.mcap"))
    with active.rename(active.with_suffix(".mcap.active")).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = say("test", "drive", "--against", "reference", "--accept", *LAUNCH)
    assert code == 3
    assert "it is being written now" in err

"""Saving damaged recordings, and cutting parts out of whole ones."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest

from perception.config import RecordConfig
from perception.drives.check import check_recording
from perception.drives.copying import CopyWriter
from perception.drives.cut import Window, cut_recording
from perception.drives.layout import StateRow
from perception.drives.recording import open_recording
from perception.drives.recover import recover, recover_in_place, recovery_of
from perception.drives.segment import SegmentWriter
from perception.errors import RecordingError
from perception.replay.unit import Wishes, replay_drive
from tests.recorded_drive import ABOUT, OFFSET_NS, PERIOD_NS, write_drive
from tests.recorded_run import record_live
from tests.test_recording import write_foreign
from tests.test_segment import file_limit

IMAGE, TRACKS, STATE, LENS = "/front/image", "/front/wire/tracks", "/front/state", "/front/calibration"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "drive")


def damage(path: Path, share: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    data[at : at + 400] = bytes(400)
    path.write_bytes(data)


def rows(path: Path, **options) -> list:
    return list(open_recording(path, **options).messages())


def test_a_damaged_file_is_saved_and_the_original_stays(drive, tmp_path):
    source = drive / "0001.mcap"
    damage(source)
    before = source.read_bytes()
    result = recover(source, tmp_path / "saved.mcap")
    assert source.read_bytes() == before
    assert not result.is_lossless
    assert 0 < result.lost.total() < 9
    found = open_recording(tmp_path / "saved.mcap")
    assert len(list(found.messages())) == result.kept.total()
    note = recovery_of(found)
    assert found.about is not None
    assert note is not None
    assert (found.about.recording, found.damage) == (ABOUT.recording, ())
    assert (note.original, note.lost, note.kept) == ("0001.mcap", dict(result.lost), dict(result.kept))


def test_every_message_that_is_kept_is_the_recorded_one(drive, tmp_path):
    whole = {(r.topic, r.sequence, r.log_ns): r for r in rows(drive)}
    damage(drive / "0000.mcap", 0.3)
    recover(drive, tmp_path / "saved")
    saved = rows(tmp_path / "saved")
    assert len(saved) > 0.95 * len(whole)
    assert all(whole[r.topic, r.sequence, r.log_ns] == r for r in saved)


def test_what_a_crash_left_becomes_a_finished_recording_without_a_loss(tmp_path):
    drive = write_drive(tmp_path / "drive", close=False)
    before = rows(drive)
    result = recover_in_place(drive)
    assert result.is_lossless
    assert sorted(p.name for p in drive.iterdir()) == ["0000.mcap", "0001.mcap"]
    recording = open_recording(drive)
    assert recording.is_finished
    assert recording.certificate is None  # none is invented
    assert list(recording.messages()) == before


def test_in_place_the_original_stays_beside_where_something_is_lost(drive):
    damage(drive / "0001.mcap")
    original = (drive / "0001.mcap").read_bytes()
    result = recover_in_place(drive)
    assert [p.name for p in result.originals] == ["0001.mcap.damaged"]
    assert (drive / "0001.mcap.damaged").read_bytes() == original
    assert open_recording(drive).damage == ()
    (drive / "0001.mcap.damaged").unlink()
    again = recover_in_place(drive)  # what is whole now is left alone
    assert (again.files, again.is_lossless) == ([], True)


def test_what_can_not_be_read_at_all_and_what_is_missing(tmp_path):
    drive = write_drive(tmp_path / "drive", segments=5)
    (drive / "0001.mcap").unlink()
    (drive / "0003.mcap").write_bytes(bytes(5000))
    (drive / "0005.mcap.active").touch()
    result = recover_in_place(drive)
    assert not result.is_lossless
    assert sorted(p.name for p in drive.iterdir()) == [
        "0000.mcap", "0002.mcap", "0003.mcap.damaged", "0004.mcap"
    ]  # fmt: skip
    assert open_recording(drive).damage == ()


def test_a_recording_in_work_is_left_alone(tmp_path):
    drive = write_drive(tmp_path / "drive")
    writer = SegmentWriter(drive / "0002.mcap", ABOUT)
    with pytest.raises(RecordingError, match="it is being written now"):
        recover_in_place(drive)
    writer.abandon()


def test_a_lost_beginning_costs_only_what_is_there(drive, tmp_path):
    source = drive / "0000.mcap"
    source.write_bytes(bytes(4096) + source.read_bytes()[4096:])
    with pytest.raises(RecordingError, match="its beginning is damaged"):
        open_recording(source)
    recover(source, tmp_path / "saved.mcap")
    saved = open_recording(tmp_path / "saved.mcap")
    assert len([r for r in saved.messages() if r.topic == TRACKS]) >= 40  # of 43


def test_files_of_other_writers_keep_their_schemas(tmp_path):
    source = write_foreign(tmp_path / "other.mcap", chunk_size=500)
    damage(source)
    recover(source, tmp_path / "saved.mcap")
    saved = open_recording(tmp_path / "saved.mcap")
    _, schema = saved.definition("/chatter")
    assert schema is not None
    assert (schema.name, schema.encoding, schema.data) == ("std_msgs/msg/String", "ros2msg", b"string data")
    assert saved.files[0].header.profile == "ros2"
    assert 20 < len(list(saved.messages())) < 50


def test_nothing_is_overwritten(drive, tmp_path):
    out = tmp_path / "there.mcap"
    out.write_bytes(b"dear")
    with pytest.raises(RecordingError, match="there already"):
        recover(drive / "0000.mcap", out)
    with pytest.raises(RecordingError, match="there already"):
        cut_recording(open_recording(drive), Window(1), out)
    with pytest.raises(RecordingError, match="not overwritten"):
        recover(drive / "0000.mcap", drive / "0000.mcap", force=True)
    assert out.read_bytes() == b"dear"


def test_an_interrupted_copy_leaves_nothing(drive, tmp_path):
    recording = open_recording(drive)
    with contextlib.suppress(KeyboardInterrupt), CopyWriter(tmp_path / "out.mcap", recording.files[0], ABOUT) as copy:
        copy.write(next(recording.messages()), recording)
        raise KeyboardInterrupt
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive"]


@pytest.mark.parametrize("limit", [0, 100, 20_000, 40_000])
def test_a_copy_on_a_full_disk_leaves_nothing_and_says_why(drive, tmp_path, limit):
    recording = open_recording(drive)
    out = tmp_path / "out.mcap"
    with pytest.raises(RecordingError, match=r"out\.mcap.*: file too large"), file_limit(limit):
        cut_recording(recording, Window(), out)
    damage(drive / "0000.mcap")
    with pytest.raises(RecordingError, match=r"out\.mcap.*: file too large"), file_limit(limit):
        recover(drive / "0000.mcap", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive"]


@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_whole_segment_on_a_full_disk_leaves_nothing_and_says_why(drive, tmp_path, limit):
    with pytest.raises(RecordingError, match=r"out\.mcap.*: file too large"), file_limit(limit):
        recover(drive / "0000.mcap", tmp_path / "out.mcap")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive"]
    with pytest.raises(RecordingError, match=r"0000\.mcap.*: file too large"), file_limit(limit):
        recover(drive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_whole_segment_whose_name_is_taken_by_a_folder_leaves_nothing(drive, tmp_path):
    (tmp_path / "out.mcap").mkdir()
    with pytest.raises(RecordingError, match="is a directory"):
        recover(drive / "0000.mcap", tmp_path / "out.mcap", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive", "out.mcap"]


def test_a_folder_that_can_not_be_made_is_said(drive, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="out: not a directory"):
        recover(drive, tmp_path / "file" / "out")


def test_a_copy_that_can_not_even_begin_leaves_nothing(drive, tmp_path):
    recording = open_recording(drive)
    long = msgspec.structs.replace(ABOUT, launch="x" * 100_000)  # more than waits in memory for the disk
    with pytest.raises(RecordingError, match="file too large"), file_limit(1000):
        CopyWriter(tmp_path / "out.mcap", recording.files[0], long)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive"]


def test_a_copy_whose_name_is_taken_by_a_folder_leaves_nothing(drive, tmp_path):
    recording = open_recording(drive)
    (tmp_path / "out.mcap").mkdir()
    with (
        pytest.raises(RecordingError, match="is a directory"),
        CopyWriter(tmp_path / "out.mcap", recording.files[0], ABOUT) as copy,
    ):
        copy.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive", "out.mcap"]


def test_a_cut_begins_with_the_state_before_it(drive, tmp_path):
    result = cut_recording(open_recording(drive), Window(1.5, 2.5), tmp_path / "cut.mcap")
    found = rows(result.path)
    state = msgspec.msgpack.decode(found[0].data, type=StateRow)
    assert (found[0].topic, state.frame_seq) == (STATE, 25)  # the window begins at frame 37 or 38
    frames = [r.sequence for r in found if r.topic == "/front/decisions"]
    assert frames == list(range(26, 63))
    assert (result.cut.frame_seq, result.cut.lead_in_ns) == (25, 1_500_000_000 - 25 * PERIOD_NS - 1)
    whole = {(r.topic, r.log_ns): r for r in rows(drive)}
    assert all(whole[r.topic, r.log_ns] == r for r in found if r.topic != LENS)


def test_a_cut_of_an_exact_range_and_of_topics(drive, tmp_path):
    window = Window(1.5, 2.5, {IMAGE, TRACKS}, exact=True)
    result = cut_recording(open_recording(drive), window, tmp_path / "cut.mcap")
    found = rows(result.path)
    assert {r.topic for r in found} == {IMAGE, TRACKS}
    assert [(r.log_ns - OFFSET_NS) // PERIOD_NS for r in found][:1] == [38]
    assert not result.has_state


def test_a_cut_from_a_frame_with_a_state_still_holds_this_frame(drive, tmp_path):
    cut_recording(open_recording(drive), Window(2.0, 2.2), tmp_path / "cut.mcap")  # frame 50 has a state
    found = rows(tmp_path / "cut.mcap")
    assert msgspec.msgpack.decode(found[0].data, type=StateRow).frame_seq == 25
    assert 50 in [r.sequence for r in found if r.topic == IMAGE]


def test_a_cut_from_the_beginning_is_the_whole(drive, tmp_path):
    cut_recording(open_recording(drive), Window(), tmp_path / "cut.mcap")
    key = lambda r: (r.log_ns, r.topic)  # noqa: E731
    assert sorted(rows(tmp_path / "cut.mcap"), key=key) == sorted(rows(drive), key=key)


def test_a_cut_is_whole_and_the_same_each_time(drive, tmp_path):
    for name in ("a.mcap", "b.mcap"):
        cut_recording(open_recording(drive), Window(1.5, 2.5), tmp_path / name)
    assert (tmp_path / "a.mcap").read_bytes() == (tmp_path / "b.mcap").read_bytes()
    assert check_recording(tmp_path / "a.mcap").faults == []


@pytest.mark.parametrize("window", [Window(100.0), Window(2.0, 1.0), Window(0, 1, {"/rear/image"})])
def test_a_window_that_is_not_there(drive, tmp_path, window):
    with pytest.raises(RecordingError, match=r"of a recording of 3\.960 s|no topic /rear/image"):
        cut_recording(open_recording(drive), window, tmp_path / "cut.mcap")
    assert not (tmp_path / "cut.mcap").exists()


def test_a_replay_of_a_cut_says_what_the_whole_drive_said(tmp_path, monkeypatch):
    (tmp_path / "socket").mkdir(mode=0o700)
    monkeypatch.setattr("perception.sinks.recorder.STATE_EVERY_NS", 100_000_000)
    record = RecordConfig(folder=str(tmp_path / "drives"), exact=True, least_free_gb=0)
    recording = open_recording(record_live(tmp_path, record))
    half_s = (recording.end_ns - recording.begin_ns) / 2e9
    cut = cut_recording(recording, Window(half_s), tmp_path / "cut.mcap")
    assert cut.cut.frame_seq > 0
    done = replay_drive(str(cut.path), wishes=Wishes(mode="re-enacted"))
    assert done.sameness is not None
    assert (done.sameness.different, done.sameness.not_recorded) == (0, 0)
    assert done.sameness.same == done.messages > 50
    assert check_recording(recording.path).faults == []
    assert check_recording(cut.path).faults == []

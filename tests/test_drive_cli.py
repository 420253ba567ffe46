"""`perception drive`: what it says of good and bad recordings, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from perception.drives.layout import Channel, Decision, StateRow, decisions
from perception.drives.recording import open_recording
from perception.drives.schemas import DECISION
from perception.drives.segment import SegmentWriter
from perception.sinks.recorder import STATE_EVERY_NS, Recorder, RecordSettings
from tests.recorded_drive import ABOUT, PERIOD_NS, put, records_of, write_drive
from tests.test_cli import perception, refused
from tests.test_recording import write_foreign, write_segment


@pytest.fixture
def say(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: perception(capsys, monkeypatch, "drive", *words)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "drive")


def spoil(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1500] = bytes(1500)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("command", ["info", "check", "recover", "cut"])
def test_every_command_explains_itself(say, command):
    code, out, _ = say(command, "--help")
    assert code == 0
    assert f"Usage: perception drive {command}" in out


def test_info_says_what_is_in_it(say, drive):
    code, out, _ = say("info", drive)
    assert code == 0
    for text in ("2023-11-14", "3.960 s", "road (abababababababab)", "complete; ended: closed", "14 dropped: busy"):
        assert text in out
    assert "100 captured every 40.0 ms: 86 stepped, 0 failed, 14 dropped, 0 broken" in out
    assert "looked at 50%" in out
    assert "foxglove.CompressedImage" in out


def test_info_as_json(say, drive):
    code, out, _ = say("info", drive, "--json")
    found = json.loads(out)
    topics = {channel["topic"]: channel for channel in found["channels"]}
    assert (code, found["is_complete"], found["states"]) == (0, True, 4)
    assert found["frames"]["captured"] == 100
    assert found["events"] == {"confirmed": 8}
    assert topics["/front/wire/tracks"]["messages"] == topics["/front/wire/tracks"]["written"] == 86
    assert topics["/front/image"]["bytes"] > 100 * 500


def test_quick_info_reads_no_message(say, drive):
    spoil(drive / "0000.mcap")
    _, out, _ = say("info", drive, "--quick", "--json")
    found = json.loads(out)
    assert (found["is_read"], found["frames"], found["damage"]) == (False, None, [])
    assert found["channels"][-1]["messages"] == 86


def test_info_of_a_gap(say, tmp_path):
    writer = SegmentWriter(tmp_path / "0000.mcap", ABOUT)
    for seq in (0, 1, 2, 3, 4, 10, 11):
        decision = Decision(seq, seq * PERIOD_NS, "stepped")
        channel = Channel(decisions("front"), DECISION, "json")
        writer.write(channel, msgspec.json.encode(decision), seq * PERIOD_NS, seq * PERIOD_NS, seq)
        writer.flush()
    writer.close()
    _, out, _ = say("info", tmp_path, "--json")
    (gap,) = json.loads(out)["frames"]["gaps"]
    assert gap["seconds"] == pytest.approx(6 * PERIOD_NS / 1e9)


def test_info_of_a_damaged_one_lists_the_damage(say, drive):
    spoil(drive / "0001.mcap")
    code, out, _ = say("info", drive)
    assert code == 0
    assert "not complete; ended: closed" in out
    assert "0001.mcap" in out.split("damage", 1)[1]


def test_info_of_another_programs_file(say, tmp_path):
    code, out, _ = say("info", write_foreign(tmp_path / "other.mcap"))
    assert code == 0
    assert "another program" in out
    assert "std_msgs/msg/String" in out


def test_a_whole_drive_passes(say, drive):
    code, out, _ = say("check", drive)
    assert (code, out.splitlines()) == (0, [f"{drive}: whole, 291 messages"])


def test_check_goes_on_after_a_bad_one(say, drive, tmp_path):
    bad = tmp_path / "bad.mcap"
    bad.write_bytes(b"")
    spoiled = write_drive(tmp_path / "spoiled")
    spoil(spoiled / "0001.mcap")
    code, out, err = say("check", bad, spoiled, drive)
    assert code == 2
    assert "bad.mcap: an empty file" in err
    assert f"{spoiled}: not whole" in out
    assert f"{drive}: whole" in out


def test_a_damaged_drive_fails(say, drive):
    spoil(drive / "0001.mcap")
    code, out, _ = say("check", drive)
    assert code == 3
    assert "damaged: " in out
    assert "messages are missing: /front/wire/tracks" in out
    assert "the certificate says 86" in out


def test_damage_that_costs_no_message_is_found_too(say, drive):
    path = drive / "0000.mcap"
    data = bytearray(path.read_bytes())
    at = (
        data.index(b"foxglove/RawImage.proto") if b"foxglove/RawImage.proto" in data else data.index(b"foxglove.", 9000)
    )
    data[at] ^= 1  # in the table of schemas, which is there again and again
    path.write_bytes(data)
    code, out, _ = say("check", drive)
    assert (code, out.splitlines()[0]) == (3, f"{drive}: not whole, 291 messages")


def test_one_that_lacks_what_its_certificate_expects_fails(say, tmp_path):
    code, out, _ = say("check", write_drive(tmp_path / "drive", lose=2))
    assert code == 3
    assert "/front/image: 2 messages were not recorded" in out


def test_one_that_was_not_closed_fails(say, tmp_path):
    code, out, _ = say("check", write_drive(tmp_path / "drive", close=False))
    assert code == 3
    assert "not finished" in out


def test_messages_that_are_not_what_they_say(say, tmp_path):
    code, out, _ = say("check", write_segment(tmp_path / "0000.mcap", range(8)))
    assert code == 3
    assert "an image can't be read: /front/image 0 at 0.000 s" in out
    assert "a message can't be decoded: /front/wire/road 1 at 0.000 s" in out
    assert "an image can't be read: 3 more" in out
    assert "8 images without a decision" in out


def test_stamps_that_go_back(say, tmp_path):
    writer = SegmentWriter(tmp_path / "0000.mcap", ABOUT)
    for seq, later_ns in ((0, 0), (1, 0), (2, -60_000_000), (3, 0)):
        for r in records_of(seq):
            channel, log_ns = Channel(r.topic, r.schema, r.encoding), r.log_ns + later_ns
            writer.write(channel, r.data, log_ns, r.publish_ns, r.sequence)
    writer.close()
    code, out, _ = say("check", tmp_path / "0000.mcap")
    assert code == 3
    assert "stamps go back: /front/image 2 by 20.0 ms" in out
    assert "stamps go back: /front/wire/tracks 3 at 0.020 s: by 20.0 ms" in out


def test_recover_tells_what_was_lost(say, drive, tmp_path):
    spoil(drive / "0001.mcap")
    code, out, _ = say("recover", drive, "-o", tmp_path / "saved")
    assert code == 3
    assert re.search(r"lost: [1-4] of /front/wire/tracks", out)
    assert open_recording(tmp_path / "saved").damage == ()


def test_recover_in_place_of_what_a_crash_left(say, tmp_path):
    drive = write_drive(tmp_path / "drive", close=False)
    code, out, _ = say("recover", drive, "--in-place")
    assert code == 0
    assert "1 file written anew" in out
    code, out, _ = say("check", drive)
    assert (code, "note: recovered, without a loss" in out) == (0, True)


def test_cut_says_how_often_a_state_is_kept(say):
    _, out, _ = say("cut", "--help")
    every_s = STATE_EVERY_NS // 10**9
    text = " ".join(out.replace("│", " ").split())
    assert f"every {every_s} s" in text
    assert f"up to {every_s} s earlier" in text


def test_a_recording_without_a_frame_is_noted(say, tmp_path):
    recorder = Recorder(tmp_path / "empty", ABOUT, RecordSettings(least_free_bytes=0))
    recorder.state(StateRow(-1, 0, 0, {}, 0, b"", b""))
    recorder.close()
    code, out, _ = say("check", tmp_path / "empty")
    assert (code, "note: no frame is in it" in out) == (0, True)


def test_cut_says_where_it_begins(say, drive, tmp_path):
    code, out, _ = say("cut", drive, "--from", 1.5, "--to", 2.5, "-o", tmp_path / "cut.mcap")
    assert code == 0
    assert "0.500 s before: it begins with the node's state after frame 25" in out
    code, out, _ = say("cut", drive, "--from", 1.5, "-o", tmp_path / "exact.mcap", "--exact-range")
    assert "a replay begins with an empty memory" in out


def test_a_cut_from_the_beginning_begins_with_the_first_state(say, drive, tmp_path):
    code, out, _ = say("cut", drive, "--to", 1, "-o", tmp_path / "cut.mcap")
    assert (code, "  it begins with the node's state before its first frame\n" in out) == (0, True)


def test_info_in_a_pipe_folds_no_topic(say, drive, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    assert "foxglove.CompressedImage" in say("info", drive)[1]


@pytest.mark.parametrize("in_work", [4, 5])
def test_the_frame_in_work_when_a_crash_came_is_no_fault(say, tmp_path, in_work):
    """Frames 6 and 13 were dropped while a frame before them was in work."""
    writer = SegmentWriter(tmp_path / "0000.mcap", ABOUT)
    for seq in (*range(in_work + 1), 6):
        put(writer, records_of(seq)[:1] if seq >= in_work and seq != 6 else records_of(seq))
    writer.abandon()
    code, out, _ = say("check", tmp_path / "0000.mcap.active")
    assert (code, "not finished" in out, "decision" in out) == (3, True, False)
    say("recover", tmp_path / "0000.mcap.active", "-o", tmp_path / "whole.mcap")
    assert say("check", tmp_path / "whole.mcap")[0] == 0


def test_what_was_saved_of_a_file_without_its_beginning_is_not_whole(say, drive, tmp_path):
    path = drive / "0000.mcap"
    path.write_bytes(path.read_bytes()[:9] + b"\xff" * 8 + path.read_bytes()[17:])
    assert say("recover", path, "-o", tmp_path / "saved.mcap")[0] == 3
    code, out, _ = say("check", tmp_path / "saved.mcap")
    assert (code, "could not be read" in out) == (3, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("info", "none"), "no such recording"),
        (("info", "hollow"), "no recording in it"),
        (("recover", "drive"), "say where it goes"),
        (("recover", "drive", "-o", "drive"), "there already"),
        (("recover", "empty.mcap", "--in-place"), "an empty file"),
        (("recover", "text.mcap", "-o", "out.mcap"), "not an MCAP file"),
        (("cut", "drive", "--from", "9", "-o", "cut.mcap"), "of a recording of 3.960 s"),
        (("cut", "drive", "-o", "cut"), "ends in .mcap"),
        (("cut", "drive/0000.mcap", "--force", "-o", "drive/0000.mcap"), "the recording itself is not overwritten"),
        (("recover", "drive/0000.mcap", "--force", "-o", "drive/0000.mcap"), "the recording itself is not overwritten"),
        (("cut", "drive", "-o", "nowhere/cut.mcap"), "no such file"),
    ],
)
def test_what_can_be_mended_is_one_line(say, drive, tmp_path, monkeypatch, words, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "text.mcap").write_text("not a recording")
    assert why in refused(say(*words))

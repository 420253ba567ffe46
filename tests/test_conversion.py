"""Drives from one form to another: recordings of what others made, and bags of what we recorded."""

from __future__ import annotations

import numpy as np
import pytest

from perception.conversion.convert import ConvertWishes, convert
from perception.conversion.pictures import PictureWishes, recorded_bytes, write_pictures
from perception.conversion.reading import open_drive, recorded_frames
from perception.conversion.recorded import RecordWishes, write_recording
from perception.drives.frames import stored_frames
from perception.drives.recording import open_recording
from perception.errors import RecordingError, SourceError
from perception.sources.url import open_source
from tests import source_fakes
from tests.drive_fakes import MASKS, PERIOD_NS, WALL_OFFSET_NS, Look, make_drive, scene, stored


@pytest.fixture
def drive(tmp_path):
    return make_drive(tmp_path / "drive", 10, Look(dropped=(5,)), segments=2)


def test_a_video_becomes_a_recording_with_exact_stamps(tmp_path):
    pts = [0, 31, 69, 100, 400]
    source = source_fakes.write_video(tmp_path / "dashcam.mkv", pts)
    said = convert(str(source), tmp_path / "dashcam.mcap", ConvertWishes(images="png"))
    assert said == "5 frames as png"
    recording = open_recording(tmp_path / "dashcam.mcap")
    assert recording.about
    assert (recording.about.mode, recording.about.frames, recording.about.clock) == ("converted", "png", "drive")
    assert recording.certificate
    assert recording.certificate.is_complete
    expected = list(open_source(str(source), camera="front"))
    found = list(stored_frames(recording))
    assert [frame.stamp_ns for frame in found] == [frame.stamp_ns for frame in expected] == [p * 10**6 for p in pts]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(found, expected, strict=True) if a.image is not None)


def test_a_folder_of_jpegs_keeps_its_bytes(drive, tmp_path):
    write_pictures(drive, tmp_path / "pictures", PictureWishes())
    done = write_recording(str(tmp_path / "pictures"), tmp_path / "again", RecordWishes(camera="left"))
    assert (done.frames, done.kept, done.form) == (10, 10, "jpeg")
    again = [frame.image for frame in recorded_frames(open_drive(tmp_path / "again"))]
    for i, record in enumerate(again):
        assert record
        assert record.topic == "/left/image"
        assert recorded_bytes(record)[1] == (tmp_path / "pictures" / f"{i:06d}.jpg").read_bytes()


def test_what_can_not_be_decoded_is_said_to_be_broken(drive, tmp_path):
    write_pictures(drive, tmp_path / "pictures", PictureWishes())
    (tmp_path / "pictures" / "000003.jpg").write_bytes(b"\xff\xd8 nothing")
    said = convert(str(tmp_path / "pictures"), tmp_path / "again.mcap", ConvertWishes())
    assert said == "9 frames as jpeg, 9 of them the source's own bytes, 1 broken ones left out"
    decisions = [frame.decision for frame in recorded_frames(open_drive(tmp_path / "again.mcap"), ())]
    assert [d.frame_seq for d in decisions if d and d.what == "broken"] == [3]


def test_pictures_of_another_format_than_asked_are_made_anew(drive, tmp_path):
    write_pictures(drive, tmp_path / "pictures", PictureWishes())
    done = write_recording(str(tmp_path / "pictures"), tmp_path / "again", RecordWishes(form="raw"))
    assert (done.kept, done.form) == (0, "raw")
    assert all(map(np.array_equal, stored(drive), stored(tmp_path / "again")))


def test_a_live_source_is_recorded_not_converted(tmp_path):
    with pytest.raises(SourceError, match="a live source: `perception record` records it"):
        convert("camera:0", tmp_path / "out.mcap", ConvertWishes())


def test_a_recording_becomes_a_folder_or_a_video(drive, tmp_path):
    assert convert(str(drive), tmp_path / "pictures", ConvertWishes("pictures")) == "10 pictures"
    assert convert(str(drive), tmp_path / "out.mp4", ConvertWishes()).startswith("10 frames of 128x96 by")


def test_a_recording_becomes_a_ros_2_bag(drive, tmp_path):
    highlevel = pytest.importorskip("rosbags.highlevel", reason="rosbags is not installed")
    convert(str(drive), tmp_path / "bag", ConvertWishes("ros2"))
    found: dict[str, list] = {}
    with highlevel.AnyReader([tmp_path / "bag"]) as reader:
        for connection, log_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((log_ns, message))
    counts = {topic: len(rows) for topic, rows in found.items()}
    masks = dict.fromkeys(("/front/masks/road", "/front/masks/pedestrian", "/front/masks/panoptic"), 9)
    assert counts == {"/front/image/compressed": 10} | masks
    log_ns, mask = found["/front/masks/pedestrian"][4]
    assert (mask.encoding, mask.width, mask.height) == ("mono16", *MASKS)
    assert np.array_equal(mask.data.view(np.uint16).reshape(MASKS[::-1]), (scene(4).labels == 2).astype(np.uint16))
    assert log_ns == 4 * PERIOD_NS + WALL_OFFSET_NS
    assert mask.header.stamp.sec * 10**9 + mask.header.stamp.nanosec == log_ns


def test_a_bag_becomes_a_recording_again(drive, tmp_path):
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    convert(str(drive), tmp_path / "bag", ConvertWishes("ros2"))
    convert(f"{tmp_path / 'bag'}?topic=/front/image/compressed", tmp_path / "again.mcap", ConvertWishes())
    assert [f.stamp_ns for f in recorded_frames(open_drive(tmp_path / "again.mcap"), ())] == [
        i * PERIOD_NS for i in range(10)
    ]
    before, after = (list(recorded_frames(open_drive(path), ())) for path in (drive, tmp_path / "again.mcap"))
    for one, other in zip(before, after, strict=True):
        assert one.image
        assert other.image
        assert recorded_bytes(one.image) == recorded_bytes(other.image)


@pytest.mark.parametrize(
    ("out", "form", "said"),
    [
        ("out", "", "say --to pictures or --to ros2"),
        ("out.mcap", "", "a recording of ours already"),
        ("out.mp4", "pictures", "its name says video and --to says pictures"),
        ("out", "vhs", "--to vhs: one of mcap"),
    ],
)
def test_unclear_conversions(drive, tmp_path, out, form, said):
    with pytest.raises(RecordingError, match=said):
        convert(str(drive), tmp_path / out, ConvertWishes(form))


@pytest.mark.parametrize("form", ["", "mcap"])
@pytest.mark.parametrize("name", ["c.foo", "c.mp3", "c.MCAPP"])
def test_a_suffix_that_says_nothing_is_refused(tmp_path, name, form):
    source = source_fakes.write_video(tmp_path / "dashcam.mkv", [0, 33])
    if form:  # what it becomes is said: a folder may have any name
        convert(str(source), tmp_path / name, ConvertWishes(form))
        assert (tmp_path / name / "0000.mcap").exists()
        return
    with pytest.raises(RecordingError, match=r"give \.mcap, \.mkv, \.mov or \.mp4, a name without a suffix, or --to"):
        convert(str(source), tmp_path / name, ConvertWishes(form))
    assert {path.name for path in tmp_path.iterdir()} == {"dashcam.mkv"}


def test_a_suffix_that_says_nothing_is_refused_of_a_recording_too(drive, tmp_path):
    with pytest.raises(RecordingError, match=r"its suffix \.foo says nothing"):
        convert(str(drive), tmp_path / "c.foo", ConvertWishes())


def test_only_recordings_become_other_things(tmp_path):
    source = source_fakes.write_video(tmp_path / "dashcam.mkv", [0, 33])
    with pytest.raises(RecordingError, match=r"convert it to \.mcap first"):
        convert(str(source), tmp_path / "bag", ConvertWishes("ros2"))


def test_sources_that_can_not_be_converted(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        convert(str(tmp_path / "nothing"), tmp_path / "out.mcap", ConvertWishes())
    assert not list(tmp_path.iterdir())

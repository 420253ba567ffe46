"""What the drive tools make of a recording: pictures and videos."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from perception.cli import app, drive_tools, pictures
from perception.conversion.convert import ConvertWishes, convert
from perception.conversion.outputs import Stopped
from perception.conversion.pictures import PictureWishes, recorded_bytes, write_pictures
from perception.conversion.reading import open_drive, recorded_frames
from perception.conversion.strip import COLOURS, Strip, said_of
from perception.conversion.video import VideoWishes, write_video
from perception.drives.frames import image_of
from perception.drives.recording import open_recording
from perception.errors import RecordingError
from perception.sources.url import open_source
from tests.drive_fakes import PERIOD_NS, RECORDING, SIZE, WALL_OFFSET_NS, Look, image, make_drive, scene, stored, walker

assert drive_tools  # importing them registers the commands
assert pictures


@pytest.fixture
def drive(tmp_path):
    return make_drive(tmp_path / "drive", 10, Look(dropped=(5,)), segments=2)


def read_picture(path, flag=cv2.IMREAD_UNCHANGED):
    found = cv2.imread(str(path), flag)
    assert found is not None
    return found


def decoded(path):
    """Stamps [s] and (h, w, 3) RGB pictures of a video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert all(frame.pts is not None and frame.time_base for frame in frames)
        stamps = [Fraction(frame.pts or 0) * (frame.time_base or 0) for frame in frames]
        return stamps, [frame.to_ndarray(format="rgb24") for frame in frames]


def interrupting(after):
    """A progress function during which somebody presses Ctrl-C."""

    def progress(what, done, total):
        if done == after:
            raise KeyboardInterrupt

    return progress


# -- reading -----------------------------------------------------------------------------------------------------


def test_what_belongs_to_a_frame_comes_together(drive):
    frames = list(recorded_frames(open_drive(drive)))
    assert [frame.seq for frame in frames] == list(range(10))
    assert [frame.stamp_ns for frame in frames] == [i * PERIOD_NS for i in range(10)]
    assert all(frame.image and frame.decision for frame in frames)
    assert [set(frame.messages) for frame in frames[4:6]] == [{"road", "pedestrian", "panoptic", "tracks"}, set()]


def test_times_count_from_the_first_frame(drive):
    part = open_drive(drive, 2 * PERIOD_NS / 1e9, 6 * PERIOD_NS / 1e9)
    assert [frame.seq for frame in recorded_frames(part)] == [2, 3, 4, 5]


@pytest.mark.parametrize(("begin", "end", "said"), [(9.0, None, "nothing is left from 9 s on"), (2.0, 1.0, "is empty")])
def test_times_that_are_none_of_the_drive(drive, begin, end, said):
    with pytest.raises(RecordingError, match=said):
        open_drive(drive, begin, end)


# -- frames ------------------------------------------------------------------------------------------------------


def test_pictures_are_the_recorded_bytes(drive, tmp_path):
    done = write_pictures(drive, tmp_path / "out", PictureWishes())
    records = [frame.image for frame in recorded_frames(open_drive(drive), ())]
    assert done.frames == 10
    for i, record in enumerate(records):
        assert record
        assert (tmp_path / "out" / f"{i:06d}.jpg").read_bytes() == recorded_bytes(record)[1]


def test_a_folder_of_pictures_is_a_drive_with_the_same_stamps(drive, tmp_path):
    write_pictures(drive, tmp_path / "out", PictureWishes(begin_s=0.05, every=2))
    frames = list(open_source(str(tmp_path / "out"), camera="front"))
    assert [frame.stamp_ns for frame in frames] == [2 * i * PERIOD_NS for i in range(4)]
    assert np.array_equal(frames[0].image, stored(drive)[2])
    rows = (tmp_path / "out" / "frames.csv").read_text().splitlines()
    assert rows[1] == f"2,{2 * PERIOD_NS},{2 * PERIOD_NS + WALL_OFFSET_NS},000002.jpg"


def test_pictures_of_another_format_are_encoded_anew(drive, tmp_path):
    write_pictures(drive, tmp_path / "out", PictureWishes(form="png", end_s=0.01))
    found = cv2.cvtColor(read_picture(tmp_path / "out" / "000000.png"), cv2.COLOR_BGR2RGB)
    assert np.array_equal(found, stored(drive)[0])


def test_bare_pixels_become_png(tmp_path):
    drive = make_drive(tmp_path / "drive.mcap", 2, Look(form="raw"))
    write_pictures(drive, tmp_path / "out", PictureWishes())
    assert np.array_equal(read_picture(tmp_path / "out" / "000001.png")[..., ::-1], image(1))


def test_masks_and_tracks_beside_the_pictures(drive, tmp_path):
    done = write_pictures(drive, tmp_path / "out", PictureWishes(masks=True))
    assert done.masks == {"road": 9, "pedestrian": 9, "panoptic": 9}
    masks, said = tmp_path / "out" / "masks", scene(4)
    assert np.array_equal(read_picture(masks / "panoptic" / "000004.png"), said.labels)
    assert json.loads((masks / "panoptic" / "classes.json").read_text()) == ["sky", "road", "pedestrian", "car"]
    positions = read_picture(masks / "pedestrian" / "000004.png")
    assert positions.dtype == np.uint16
    assert np.array_equal(positions, (said.labels == 2).astype(np.uint16))
    rows = [json.loads(line) for line in (masks / "pedestrian" / "ids.jsonl").read_text().splitlines()]
    assert rows[4] == {"frame_seq": 4, "positions": [{"id": 1, "class": "pedestrian"}]}
    road = read_picture(masks / "road" / "000004.png")
    assert np.array_equal(road, 255 * (said.labels == 1).astype(np.uint8))
    tracks = [json.loads(line) for line in (tmp_path / "out" / "tracks.jsonl").read_text().splitlines()]
    assert [row["frame_seq"] for row in tracks] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert (tracks[4]["validity"], tracks[4]["tracks"][0]["box"]) == ("observed", list(walker(4)))


def test_a_result_has_no_pictures(tmp_path):
    result = make_drive(tmp_path / "result", 3, Look(form="none"))
    with pytest.raises(RecordingError, match="holds no images: give the drive that it is a result of"):
        write_pictures(result, tmp_path / "out", PictureWishes())
    assert not (tmp_path / "out").exists()


# -- results under their names --------------------------------------------------------------------------------------


def test_nothing_is_replaced_unless_asked(drive, tmp_path):
    out = tmp_path / "out"
    write_pictures(drive, out, PictureWishes())
    with pytest.raises(RecordingError, match="out: it is there already: give another name, or --force"):
        write_pictures(drive, out, PictureWishes(every=5))
    assert len(list(out.glob("*.jpg"))) == 10
    write_pictures(drive, out, PictureWishes(every=5), force=True)
    assert len(list(out.glob("*.jpg"))) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"drive", "out"}


def test_a_folder_with_other_things_in_it_is_never_replaced(drive, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(RecordingError, match=r"does not replace a folder with other things in it, like thesis\.tex"):
        write_pictures(drive, tmp_path / "home", PictureWishes(), force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def test_ctrl_c_keeps_pictures_under_another_name(drive, tmp_path):
    with pytest.raises(Stopped, match=r"what is done is in .*out\.part"):
        write_pictures(drive, tmp_path / "out", PictureWishes(), progress=interrupting(4))
    assert not (tmp_path / "out").exists()
    assert len(list(open_source(str(tmp_path / "out.part"), camera="front"))) == 4
    with pytest.raises(RecordingError, match=r"out\.part: it is there already"):
        write_pictures(drive, tmp_path / "out", PictureWishes())


def test_ctrl_c_leaves_a_video_that_plays(drive, tmp_path):
    with pytest.raises(Stopped):
        write_video(drive, tmp_path / "out.mp4", VideoWishes(), progress=interrupting(4))
    assert not (tmp_path / "out.mp4").exists()
    assert len(decoded(tmp_path / "out.part.mp4")[0]) == 4


def test_an_error_leaves_nothing(drive, tmp_path):
    segment = sorted(drive.iterdir())[1]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(RecordingError):
        write_pictures(drive, tmp_path / "out", PictureWishes())
    assert {path.name for path in tmp_path.iterdir()} == {"drive"}


# -- video -------------------------------------------------------------------------------------------------------


def test_a_video_has_the_exact_stamps(drive, tmp_path):
    done = write_video(drive, tmp_path / "out.mp4", VideoWishes(dropped=True))
    stamps, pictures = decoded(tmp_path / "out.mp4")
    assert [round(stamp * 10**6) for stamp in stamps] == [round(i * PERIOD_NS / 1000) for i in range(10)]
    assert (done.frames, done.without_masks, done.without_image) == (10, 1, 0)
    assert pictures[0].shape[1] == SIZE[0]
    assert pictures[0].shape[0] > SIZE[1]


def test_frames_that_the_node_dropped_are_marked_only(drive, tmp_path):
    done = write_video(drive, tmp_path / "out.mp4", VideoWishes())
    stamps, _ = decoded(tmp_path / "out.mp4")
    assert (done.frames, done.dropped) == (9, 1)
    assert round(5 * PERIOD_NS / 1000) not in [round(stamp * 10**6) for stamp in stamps]


def test_speed_and_scale(drive, tmp_path):
    done = write_video(drive, tmp_path / "out.mkv", VideoWishes(speed=2.0, scale=0.5, plain=True))
    stamps, _ = decoded(tmp_path / "out.mkv")
    assert (done.width, done.height) == (SIZE[0] // 2, SIZE[1] // 2)
    assert float(stamps[9]) == pytest.approx(4.5 * PERIOD_NS / 1e9, abs=1e-3)


def test_masks_colour_the_picture_and_plain_does_not(drive, tmp_path):
    write_video(drive, tmp_path / "masks.mp4", VideoWishes(topics=("road",)))
    write_video(drive, tmp_path / "plain.mp4", VideoWishes(plain=True))
    masks, plain = (decoded(tmp_path / name)[1][0].astype(int) for name in ("masks.mp4", "plain.mp4"))
    change = np.abs(masks[: SIZE[1]] - plain).max(2)
    assert change[72:, :60].mean() > 20  # road, below the pedestrian
    assert change[16:28, 60:].mean() < 20  # sky, between the names


def test_a_result_is_drawn_over_the_drive_that_lends_its_images(drive, tmp_path):
    result = make_drive(tmp_path / "result", 10, Look(form="none", dropped=(2, 5)))
    done = write_video(result, tmp_path / "out.mp4", VideoWishes(frames=drive))
    assert (done.frames, done.without_image) == (8, 0)
    alone = write_video(result, tmp_path / "alone.mp4", VideoWishes())
    assert alone.without_image == alone.frames == 8
    assert decoded(tmp_path / "alone.mp4")[1][0].shape == decoded(tmp_path / "out.mp4")[1][0].shape


def test_images_are_matched_by_stamp_not_by_number(tmp_path):
    drive = make_drive(tmp_path / "drive", 6)
    write_pictures(drive, tmp_path / "half", PictureWishes(every=2))
    convert(str(tmp_path / "half"), tmp_path / "half.mcap", ConvertWishes())
    result = make_drive(tmp_path / "result", 6, Look(form="none", clock="drive"))
    done = write_video(result, tmp_path / "out.mp4", VideoWishes(frames=tmp_path / "half.mcap"))
    assert (done.frames, done.without_image) == (6, 3)


def test_a_drive_without_masks_is_a_video_too(tmp_path):
    drive = make_drive(tmp_path / "drive", 4, Look(unseen=range(4)))
    done = write_video(drive, tmp_path / "out.mp4", VideoWishes())
    assert (done.frames, done.without_masks) == (4, 4)


@pytest.mark.parametrize(
    ("name", "wishes", "said"),
    [
        ("out.avi", VideoWishes(), "a video's name ends in one of"),
        ("out.mp4", VideoWishes(speed=0), "speed 0: from"),
        ("out.mp4", VideoWishes(scale=9), "scale 9: from"),
        ("out.mp4", VideoWishes(topics=("raod",)), "no topic 'raod': it holds events, panoptic"),
    ],
)
def test_wishes_that_can_not_be(drive, tmp_path, name, wishes, said):
    with pytest.raises(RecordingError, match=said):
        write_video(drive, tmp_path / name, wishes)
    assert {path.name for path in tmp_path.iterdir()} == {"drive"}


def test_the_strip_tells_dropped_from_carried(drive):
    frames = list(recorded_frames(open_drive(drive)))
    assert [said_of(frame).kind for frame in frames[3:6]] == ["propagated", "observed", "dropped"]
    assert said_of(frames[3]).text == "propagated: the network looks at every second frame"
    assert said_of(frames[5]).text == "dropped: a newer frame came"
    strip = Strip(200, 0, 10 * PERIOD_NS)
    drawn = [strip.draw(frame) for frame in frames][-1]
    bar = drawn[-2]
    assert tuple(bar[20 * 4]) == COLOURS["observed"]
    assert tuple(bar[20 * 3]) == COLOURS["propagated"]
    assert tuple(drawn[-strip.height :][16 if strip.height < 30 else 0][100]) == COLOURS["dropped"]


def test_the_recording_may_be_of_somebody_else(tmp_path):
    bag_fakes = pytest.importorskip("tests.bag_fakes")
    path = bag_fakes.write_mcap(tmp_path / "other.mcap", {"/imu": ("", "json", [b"{}"])})
    with pytest.raises(RecordingError, match="not a recording of perception's"):
        write_pictures(path, tmp_path / "out", PictureWishes())


# -- the command -------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(drive, tmp_path):
    run = CliRunner()
    out = run.invoke(app, ["drive", "frames", str(drive), "-o", str(tmp_path / "out"), "--every", "2"])
    assert (out.exit_code, out.stdout) == (0, f"{tmp_path / 'out'}: 5 pictures\n")
    out = run.invoke(app, ["drive", "video", str(drive), "-o", str(tmp_path / "out.mp4"), "--to", "0.1"])
    assert out.exit_code == 0
    assert ": 4 frames of 128x" in out.stdout
    again = run.invoke(app, ["drive", "convert", str(tmp_path / "out"), "-o", str(tmp_path / "out.mcap")])
    assert "5 frames as jpeg, 5 of them the source's own bytes" in again.stdout
    about = open_recording(tmp_path / "out.mcap").about
    assert about
    assert about.recording != RECORDING
    assert image_of(next(open_recording(tmp_path / "out.mcap").messages(["/front/image"]))) is not None

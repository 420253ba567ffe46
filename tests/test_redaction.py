"""Redaction: what is covered can't be told any more, what is not is as it was, and no other copy is left."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from perception import wire
from perception.cli import app, drive_tools
from perception.conversion.outputs import Stopped
from perception.conversion.redaction import redact
from perception.conversion.regions import (
    Regions,
    RegionWishes,
    chosen_classes,
    pixelate,
    region_of,
    uncovered_classes,
)
from perception.drives.cut import Window, cut_recording
from perception.drives.foxglove import Place, image_record
from perception.drives.frames import stored_frames
from perception.drives.layout import Record
from perception.drives.recording import Recording, open_recording
from perception.errors import RecordingError
from tests.drive_fakes import (
    PERIOD_NS,
    RECORDING,
    SIZE,
    WALL_OFFSET_NS,
    Look,
    about_of,
    car,
    encoder_of,
    frames_of,
    image,
    make_drive,
    records_of,
    scene,
    walker,
)
from tests.recorded_drive import write_segment

assert drive_tools  # importing it registers the commands
RAW = Look(form="raw")


def images(path: Path) -> dict[int, np.ndarray]:
    found = {frame.seq: frame.image for frame in stored_frames(open_recording(path))}
    return {seq: picture for seq, picture in found.items() if picture is not None}


def messages(recording: Recording) -> list[Record]:
    return [record for record in recording.messages() if not record.topic.endswith("/image")]


def head(i: int) -> tuple[int, int, int, int]:
    """The middle of the pedestrian's head [px of the image]."""
    x0, y0, x1, _ = walker(i)
    return 2 * x0, 2 * y0, 2 * x1, 2 * y0 + 20


def detail(picture: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """How much neighbouring pixels differ: the chequer's is large."""
    x0, y0, x1, y1 = box
    return float(np.abs(np.diff(picture[y0:y1, x0:x1].astype(int), axis=1)).mean())


def write_with(path: Path, frames: int, more: dict[int, list[Record]], look: Look = RAW) -> Path:
    """A drive in which these records come instead of frame i's image, or with it where they are of another topic."""
    about, encoder = about_of(look), encoder_of(look)
    chunks: list[list[Record]] = []
    for i in range(frames):
        extra = more.get(i, [])
        replaced = {record.topic for record in extra}
        chunks.append([r for r in records_of(i, look, about, encoder) if r.topic not in replaced] + extra)
    return write_segment(path, about, chunks)


# -- what is covered ---------------------------------------------------------------------------------------------


def test_heads_and_plates_are_covered_and_the_rest_is_as_it_was(tmp_path):
    drive = make_drive(tmp_path / "drive", 6, RAW)
    done = redact(drive, tmp_path / "out", RegionWishes(hold=0))
    assert done.boxes == {"pedestrian": 6, "car": 6}
    for i, picture in images(tmp_path / "out").items():
        assert detail(picture, head(i)) < 0.2 * detail(image(i), head(i))
        x0, y0, x1, y1 = (2 * side for side in car(i))
        plate = (x0, y0 + 18, x1, y1)
        assert detail(picture, plate) < 0.2 * detail(image(i), plate)
        assert np.array_equal(picture[88:], image(i)[88:])
        assert np.array_equal(picture[:8], image(i)[:8])
        legs = np.s_[50:76, 2 * walker(i)[0] : 2 * walker(i)[2]]
        assert np.array_equal(picture[legs], image(i)[legs])


def test_only_the_asked_classes(tmp_path):
    drive = make_drive(tmp_path / "drive", 2, RAW)
    done = redact(drive, tmp_path / "out", RegionWishes(("car",)))
    assert set(done.boxes) == {"car"}
    found = images(tmp_path / "out")[0]
    assert np.array_equal(found[:, :40], image(0)[:, :40])


def test_the_whole_of_a_thing(tmp_path):
    drive = make_drive(tmp_path / "drive", 2, RAW)
    redact(drive, tmp_path / "out", RegionWishes(("pedestrian",), whole=True, hold=0))
    x0, y0, x1, y1 = (2 * side for side in walker(0))
    assert detail(images(tmp_path / "out")[0], (x0, y0, x1, y1)) < 0.2 * detail(image(0), (x0, y0, x1, y1))


def test_a_thing_behind_another_is_covered_where_it_was_last_seen(tmp_path):
    drive = make_drive(tmp_path / "drive", 6, Look(form="raw", hidden=range(6)))
    redact(drive, tmp_path / "out", RegionWishes(hold=0))
    for i, picture in images(tmp_path / "out").items():
        assert detail(picture, head(i)) < 0.2 * detail(image(i), head(i))


def test_frames_that_were_missed_are_covered_by_those_around_them(tmp_path):
    drive = make_drive(tmp_path / "drive", 12, Look(form="raw", unseen=(4, 5), dropped=(8,)))
    done = redact(drive, tmp_path / "out", RegionWishes(hold=3))
    assert done.frames == 12
    for i in (4, 5, 8):
        assert detail(images(tmp_path / "out")[i], head(i)) < 0.2 * detail(image(i), head(i))


def test_an_image_that_nothing_looked_at_is_left_out(tmp_path):
    drive = make_drive(tmp_path / "drive", 12, Look(form="raw", unseen=range(6)))
    done = redact(drive, tmp_path / "out", RegionWishes(hold=2))
    assert sorted(images(tmp_path / "out")) == list(range(4, 12))
    assert done.left_out == {"nothing looked at it, nor at a frame near it": 4}


def test_an_image_that_can_not_be_decoded_is_left_out(tmp_path):
    look = Look()
    place = Place(3 * PERIOD_NS + WALL_OFFSET_NS, 0, 3)
    broken = image_record("front", image(3), "jpeg", 90, place, b"\xff\xd8 a face \xff\xd9")
    drive = write_with(tmp_path / "drive.mcap", 6, {3: [broken]}, look)
    done = redact(drive, tmp_path / "out.mcap", RegionWishes())
    assert done.left_out == {"it can't be decoded": 1}
    assert sorted(images(tmp_path / "out.mcap")) == [0, 1, 2, 4, 5]


def test_boxes_from_a_file(tmp_path):
    drive = make_drive(tmp_path / "drive", 6, RAW)
    rows = [{"frame": 1, "box": [90, 0, 128, 16]}, {"from": 3, "to": 4, "box": [90, 0, 128, 16]}]
    (tmp_path / "boxes.json").write_text(json.dumps([*rows, {"box": [-5, 80, 40, 900]}]))
    done = redact(drive, tmp_path / "out", RegionWishes(hold=0), also=tmp_path / "boxes.json")
    assert done.boxes["given"] == 3
    covered = {i: detail(picture, (90, 0, 128, 16)) < 40 for i, picture in images(tmp_path / "out").items()}
    assert covered == {0: False, 1: True, 2: False, 3: True, 4: True, 5: False}
    assert all(detail(picture, (0, 80, 40, 96)) < 40 for picture in images(tmp_path / "out").values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "boxes.json: "),
        ('[{"bx": [0, 0, 1, 1]}]', "unknown field `bx`"),
        ('[{"box": [5, 0, 1, 1]}]', "x1 and y1 must be beyond"),
        ('[{"box": [0, 0, 1, 1], "from": 3}]', "give both from and to"),
        ('[{"box": [0, 0, 1, 1], "from": 3, "to": 2}]', "give both from and to"),
    ],
)
def test_a_wrong_file_of_boxes(tmp_path, text, said):
    drive = make_drive(tmp_path / "drive", 1, RAW)
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(RecordingError, match=said):
        redact(drive, tmp_path / "out", RegionWishes(), also=tmp_path / "boxes.json")
    assert not (tmp_path / "out").exists()


# -- what is kept, and what must not be ------------------------------------------------------------------------------


def test_all_else_is_the_same_byte_for_byte(tmp_path):
    drive = make_drive(tmp_path / "drive", 10, Look(dropped=(5,)), segments=2)
    redact(drive, tmp_path / "out", RegionWishes())
    before, after = open_recording(drive), open_recording(tmp_path / "out")
    assert messages(after) == messages(before)
    assert after.certificate
    assert after.certificate.is_complete
    assert (after.certificate.captured, after.certificate.dropped) == (10, 1)


def test_it_says_that_it_was_redacted_and_how(tmp_path):
    drive = make_drive(tmp_path / "drive", 3)
    redact(drive, tmp_path / "out.mcap", RegionWishes(cells=4, hold=7))
    about = open_recording(tmp_path / "out.mcap").about
    assert about
    assert about.recording != RECORDING
    assert not about.is_exact
    expected = {"of": RECORDING, "classes": ["car", "pedestrian"], "whole": False, "hold": 7, "cells": 4}
    assert json.loads(about.redaction) == expected | {"given_boxes": False}


def test_no_other_copy_of_the_picture_is_left(tmp_path):
    preview = encoder_of(RAW).encode_image(frames_of(3)[2], scene(2))[1]
    at = 2 * PERIOD_NS + WALL_OFFSET_NS
    header = wire.Header("r", "front")
    sneaky = wire.encode("front/road2", header, wire.Kind.IMAGE, b"jpeg", seq=1, frame_seq=2, stamp_ns=0)
    more = [
        Record("/front/wire/image", "", "perception", at, at, 1, preview),
        Record("/front/wire/road2", "", "perception", at, at, 1, sneaky),
        Record("/front/wire/road3", "", "perception", at, at, 1, b"not a message"),
        Record("/front/state", "", "msgpack", at, at, 1, b"thumbnails"),
        Record("/rear/image", "foxglove.CompressedImage", "protobuf", at, at, 1, b"another camera"),
        Record("/front/masks/road4", "foxglove.CompressedImage", "protobuf", at, at, 1, b"no mask"),
    ]
    drive = write_with(tmp_path / "drive.mcap", 4, {2: more})
    done = redact(drive, tmp_path / "out.mcap", RegionWishes())
    assert done.channels_left_out == {record.topic: 1 for record in more}
    assert not {record.topic for record in more} & open_recording(tmp_path / "out.mcap").channels.keys()


def test_nothing_that_hides_in_the_files_of_the_images_survives(tmp_path):
    jpeg = image_record("front", image(1), "jpeg", 90, Place(0, 0, 1)).data
    begin = jpeg.index(b"\xff\xd8")
    comment = b"\xff\xfe\x00\x12thumbnail of Ada"
    data = jpeg[begin : begin + 2] + comment + jpeg[begin + 2 : jpeg.rindex(b"\xff\xd9") + 2]
    at = 1 * PERIOD_NS + WALL_OFFSET_NS
    record = image_record("front", image(1), "jpeg", 90, Place(at, at, 1), data)
    drive = write_with(tmp_path / "drive.mcap", 3, {1: [record]}, Look())
    redact(drive, tmp_path / "out.mcap", RegionWishes())
    assert sorted(images(tmp_path / "out.mcap")) == [0, 1, 2]
    assert not any(b"Ada" in r.data for r in open_recording(tmp_path / "out.mcap").messages())


def test_tracks_may_come_from_a_result(tmp_path):
    drive = make_drive(tmp_path / "drive", 5, Look(form="raw", unseen=range(5)))
    with pytest.raises(RecordingError, match="says where people and vehicles are: replay it"):
        redact(drive, tmp_path / "out", RegionWishes())
    result = make_drive(tmp_path / "result", 5, Look(form="none"))
    done = redact(drive, tmp_path / "out", RegionWishes(), tracks=result)
    assert (done.frames, done.uncovered) == (5, 0)
    assert detail(images(tmp_path / "out")[3], head(3)) < 0.2 * detail(image(3), head(3))


def result_of(path: Path, drive: str, identity: str = "") -> Path:
    """Five frames of tracks and no images, by a recording that says it is of this drive."""
    look = Look(form="none")
    about = msgspec.structs.replace(about_of(look), recording=drive or "of its own", drive=identity)
    return write_segment(path, about, (records_of(i, look, about, encoder_of(look)) for i in range(5)))


def test_tracks_of_another_drive_are_refused(tmp_path):
    drive = make_drive(tmp_path / "drive", 5, RAW)
    other = result_of(tmp_path / "other.mcap", "", "another drive")
    with pytest.raises(RecordingError, match="of another drive than"):
        redact(drive, tmp_path / "out", RegionWishes(), tracks=other)
    assert not (tmp_path / "out").exists()
    unnamed = result_of(tmp_path / "unnamed.mcap", "")
    with pytest.raises(RecordingError, match="of another drive than"):
        redact(drive, tmp_path / "out", RegionWishes(), tracks=unnamed)


def test_tracks_of_the_whole_drive_fit_a_part_of_it(tmp_path):
    drive = open_recording(make_drive(tmp_path / "drive", 5, RAW))
    cut = cut_recording(drive, Window(0.08, None), tmp_path / "cut.mcap").path
    result = result_of(tmp_path / "result.mcap", "", RECORDING)
    done = redact(cut, tmp_path / "out", RegionWishes(hold=0), tracks=result)
    found = images(tmp_path / "out")
    assert (done.frames, done.uncovered, max(found)) == (len(found), 0, 4)
    assert min(found) > 0
    for i, picture in found.items():
        assert detail(picture, head(i)) < 0.2 * detail(image(i), head(i))
    with pytest.raises(RecordingError, match="of another drive than"):
        redact(cut, tmp_path / "other", RegionWishes(), tracks=result_of(tmp_path / "b.mcap", "", "another drive"))


def test_tracks_of_images_of_another_size_are_refused(tmp_path):
    small = {i: [image_record("front", image(i)[::2, ::2], "raw", 95, at(i))] for i in range(5)}
    drive = write_with(tmp_path / "drive.mcap", 5, small)
    with pytest.raises(RecordingError, match="its frames are 128x96, the drive's 64x48"):
        redact(drive, tmp_path / "out", RegionWishes(), tracks=make_drive(tmp_path / "result", 5, Look(form="none")))
    assert not (tmp_path / "out").exists()


def at(i: int) -> Place:
    log_ns = i * PERIOD_NS + WALL_OFFSET_NS
    return Place(log_ns, log_ns, i)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (RegionWishes(("horse",)), "no class 'horse': the recording's model has sky, road, pedestrian, car"),
        (RegionWishes(cells=13), "1 to 12 cells"),
        (RegionWishes(hold=-1), "0 frames or more"),
    ],
)
def test_wishes_that_can_not_be(tmp_path, wishes, said):
    with pytest.raises(RecordingError, match=said):
        redact(make_drive(tmp_path / "drive", 1), tmp_path / "out", wishes)


def test_ctrl_c_keeps_whole_images_under_another_name(tmp_path):
    drive = make_drive(tmp_path / "drive", 8)

    def progress(what, done, total):
        if what == "covering" and done == 4:
            raise KeyboardInterrupt

    for name in ("out", "out.mcap"):
        with pytest.raises(Stopped):
            redact(drive, tmp_path / name, RegionWishes(), progress=progress)
        assert not (tmp_path / name).exists()
    assert len(images(tmp_path / "out.part")) == 4
    assert len(images(tmp_path / "out.part.mcap")) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"drive", "out.part", "out.part.mcap"}


def test_the_command_says_what_it_covered_and_that_one_must_look(tmp_path):
    drive = make_drive(tmp_path / "drive", 4)
    out = CliRunner().invoke(app, ["drive", "redact", str(drive), "-o", str(tmp_path / "out"), "--class", "car"])
    assert out.exit_code == 0
    assert "4 images, boxes: car 4" in out.stdout
    assert "look at the result" in out.stderr


# -- regions and pixels ------------------------------------------------------------------------------------------


def test_regions_by_class():
    assert region_of((100, 100, 130, 190), "pedestrian") == (93, 93, 137, 137)
    assert region_of((100, 100, 200, 150), "car") == (83, 113, 217, 157)
    assert region_of((100, 100, 200, 150), "pedestrian") == (83, 90, 217, 160)  # lying, or cut off: all of it
    assert region_of((100, 100, 110, 130), "pedestrian") == (96, 93, 114, 137)  # too small for parts


def test_classes_without_tracks_are_not_taken_for_covered():
    known = {"road": False, "car": True, "person": False}
    assert chosen_classes((), known) == {"car"}
    assert uncovered_classes(known) == ("person",)
    with pytest.raises(RecordingError, match="class 'person' has no tracks"):
        chosen_classes(("person",), known)
    with pytest.raises(RecordingError, match="tells no people and no vehicles apart"):
        chosen_classes((), {"road": False})


def test_regions_are_held_before_and_after():
    regions = Regions(2, looked_at={10})
    regions.add(10, (0, 0, 5, 5))
    assert [seq for seq in range(20) if regions.of(seq)] == [8, 9, 10, 11, 12]
    assert [seq for seq in range(20) if regions.is_known(seq)] == [8, 9, 10, 11, 12]


boxes = st.lists(st.tuples(*[st.integers(-20, 120)] * 4), max_size=5)


@settings(max_examples=60, deadline=None)
@given(boxes, st.integers(1, 12))
def test_a_covered_box_has_few_colours_and_all_else_is_the_same(given_boxes, cells):
    picture = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    covered = pixelate(picture, given_boxes, cells)
    free = np.ones(picture.shape[:2], bool)
    for x0, y0, x1, y1 in given_boxes:
        if x1 > x0 and y1 > y0:
            free[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = False
    assert np.array_equal(covered[free], picture[free])
    if given_boxes:
        x0, y0, x1, y1 = (max(0, side) for side in given_boxes[-1])
        inside = covered[y0:y1, x0:x1].reshape(-1, 3)
        side = max(min(x1, SIZE[0]) - x0, min(y1, SIZE[1]) - y0)
        assert len(np.unique(inside, axis=0)) <= min(cells, max(1, side // 8)) ** 2

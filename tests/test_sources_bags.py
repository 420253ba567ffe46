"""ROS bags and MCAP recordings of other tools, and ours, as sources."""

from __future__ import annotations

import base64
import importlib.util
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.drives.layout import About, Channel
from perception.drives.schemas import message_type
from perception.drives.segment import SegmentWriter
from perception.errors import SourceError
from tests.bag_fakes import (
    BEGIN_NS,
    COMPRESSED,
    IMU,
    RAW,
    ROS1,
    ROS2,
    compressed,
    jpegs,
    raw,
    write_bag,
    write_mcap,
)
from tests.source_fakes import HEIGHT, WIDTH, check_replay, picture, replay

STAMPS = [0, 33_333_333, 66_666_667, 100_000_001, 150_000_000]
TOPIC = "/cam/image_raw"


@pytest.mark.parametrize("kind", ["sqlite3", "mcap", "ros1"])
def test_a_bags_stamps_are_those_of_the_headers(tmp_path: Path, kind: str) -> None:
    store = ROS1 if kind == "ros1" else ROS2
    path = write_bag(tmp_path / ("a.bag" if kind == "ros1" else "a"), {TOPIC: jpegs(store, STAMPS)}, kind)
    source = replay(path)
    frames = list(source)
    check_replay(frames, (WIDTH, HEIGHT))
    assert [frame.stamp_ns for frame in frames] == STAMPS
    assert [frame.seq for frame in frames] == list(range(5))
    assert [abs(int(frame.image[5, 5, 0]) - 20 - 10 * i) < 5 for i, frame in enumerate(frames)] == [True] * 5
    assert source.info().fps == pytest.approx(30, abs=0.01)
    assert source.info().identity == replay(f"{path}?topic={TOPIC}").info().identity


@pytest.mark.parametrize("suffix", [".db3", ".mcap"])
def test_one_file_of_a_ros_2_bag_is_read_without_its_metadata(tmp_path: Path, suffix: str) -> None:
    folder = write_bag(tmp_path / "a", {TOPIC: jpegs(ROS2, STAMPS)}, "mcap" if suffix == ".mcap" else "sqlite3")
    path = next(folder.glob(f"*{suffix}")).rename(tmp_path / f"bare{suffix}")
    assert [frame.stamp_ns for frame in replay(path)] == STAMPS


def test_times_of_recording_count_where_headers_have_no_stamp(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "a", {TOPIC: jpegs(ROS2, [None] * 4)})
    assert [frame.stamp_ns for frame in replay(path)] == [0, 10**8, 2 * 10**8, 3 * 10**8]


def test_stamps_that_step_back_or_repeat_are_spaced_evenly_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stamps = [0, 30, 60, 20, 60, 90, 120, None, 180]
    messages = jpegs(ROS2, [None if ns is None else ns * 10**6 for ns in stamps])
    frames = list(replay(write_bag(tmp_path / "a", {TOPIC: messages})))
    check_replay(frames, (WIDTH, HEIGHT))
    assert [frame.stamp_ns // 10**6 for frame in frames] == [0, 30, 60, 90, 120, 150, 180, 210, 240]
    assert [r.message for r in caplog.records] == [
        f"{tmp_path / 'a'}: {TOPIC}: 6 frames had no stamp or one that did not rise: spaced evenly"
    ]


def pixels(encoding: str) -> tuple[bytes, int]:
    """A 4x2 picture of (200, 100, 50) in rows with two bytes of padding."""
    red, green, blue = 200, 100, 50
    even = {"rggb8": (red, green), "bggr8": (blue, green), "gbrg8": (green, blue), "grbg8": (green, red)}
    odd = {"rggb8": (green, blue), "bggr8": (green, red), "gbrg8": (red, green), "grbg8": (blue, green)}
    pixel = {
        "rgb8": (red, green, blue),
        "bgr8": (blue, green, red),
        "rgba8": (red, green, blue, 9),
        "bgra8": (blue, green, red, 9),
        "mono8": (77,),
    }
    if encoding.startswith("bayer_"):
        pattern = encoding.removeprefix("bayer_")
        rows = [bytes(even[pattern] * 2), bytes(odd[pattern] * 2)]
    elif encoding.startswith("yuv422"):
        y, u, v = 128, 90, 200
        rows = [bytes((u, y, v, y) if encoding == "yuv422" else (y, u, y, v)) * 2] * 2
    else:
        rows = [bytes(pixel[encoding]) * 4] * 2
    return b"".join(row + b"\xff\xff" for row in rows), len(rows[0]) + 2


@pytest.mark.parametrize(
    ("encoding", "colour"),
    [
        *[(name, (200, 100, 50)) for name in ("rgb8", "bgr8", "rgba8", "bgra8")],
        *[(f"bayer_{name}8", (200, 100, 50)) for name in ("rggb", "bggr", "gbrg", "grbg")],
        ("mono8", (77, 77, 77)),
        ("yuv422", (245, 87, 53)),
        ("yuv422_yuy2", (245, 87, 53)),
    ],
)
def test_raw_pictures_in_every_encoding_are_rgb(tmp_path: Path, encoding: str, colour: tuple[int, ...]) -> None:
    if encoding.startswith("bayer"):  # its borders are guessed
        data, _ = pixels(encoding)
        tile = np.frombuffer(data, np.uint8).reshape(2, 6)[:, :4]
        big = np.tile(tile, (4, 2))
        message = raw(ROS2, 1, encoding, (8, 8), big.tobytes())
    else:
        data, step = pixels(encoding)
        message = raw(ROS2, 1, encoding, (4, 2), data, step)
    (frame,) = replay(write_bag(tmp_path / "a", {TOPIC: [message]}))
    assert np.abs(frame.image[1, 1].astype(int) - colour).max() <= 3
    assert frame.image.flags.c_contiguous


def test_two_cameras_and_none_chosen_are_listed_with_how_to_choose(tmp_path: Path) -> None:
    topics = {
        "/left": jpegs(ROS2, STAMPS),
        "/right": jpegs(ROS2, STAMPS[:3]),
        "/words": [ROS2.types[IMU]("hello")],
    }
    path = write_bag(tmp_path / "a", topics)
    with pytest.raises(SourceError) as caught:
        replay(path)
    assert "several image topics: /left (5 messages), /right (3 messages): choose one" in str(caught.value)
    assert f"{path}?topic=/left" in str(caught.value)
    assert len(list(replay(f"{path}?topic=/right"))) == 3
    assert replay(f"{path}?topic=/right").info().identity != replay(f"{path}?topic=/left").info().identity
    with pytest.raises(SourceError, match=r"no image topic '/words': it holds /left \(5 messages\)"):
        replay(f"{path}?topic=/words")
    with pytest.raises(SourceError, match="unknown option 'fps'"):
        replay(f"{path}?fps=3")


def test_a_bag_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "a", {"/words": [ROS2.types[IMU]("hello")]})
    with pytest.raises(SourceError, match=r"no image topic that we read; it holds /words \(std_msgs/msg/String\)"):
        replay(path)


@pytest.mark.parametrize(
    "bad",
    [b"", picture(".jpg")[:300], b"noise" * 40, picture(".jpg", 32, 32)],
    ids=["empty", "cut-off", "noise", "other-size"],
)
def test_a_broken_picture_in_a_bag_is_a_broken_shot(tmp_path: Path, bad: bytes) -> None:
    messages = jpegs(ROS2, STAMPS)
    messages[2] = compressed(ROS2, STAMPS[2], bad)
    source = replay(write_bag(tmp_path / "a", {TOPIC: messages}))
    assert [(frame.seq, frame.stamp_ns) for frame in source] == [(i, STAMPS[i]) for i in (0, 1, 3, 4)]
    assert source.status().broken == 1


@pytest.mark.parametrize(
    ("encoding", "size", "count", "says"),
    [
        ("32FC1", (4, 4), 64, "'32FC1', which can't be shown as colours"),
        ("rgb8", (4, 4), 47, "no 4x4 picture in rgb8"),
        ("rgb8", (60000, 60000), 60000, "claims 60000x60000 pixels"),
        ("yuv422", (3, 2), 12, "no size for a picture in yuv422"),
    ],
)
def test_a_raw_picture_that_can_not_be_is_named(
    tmp_path: Path, encoding: str, size: tuple[int, int], count: int, says: str
) -> None:
    path = write_bag(tmp_path / "a", {TOPIC: [raw(ROS2, 1, encoding, size, bytes(count))]})
    with pytest.raises(SourceError, match=says):
        replay(path)


def outcome(path: Path) -> tuple[list[int], str]:
    """The stamps that came, and the error at their end, if any."""
    stamps: list[int] = []
    try:
        for frame in replay(path):
            stamps.append(frame.stamp_ns)
    except SourceError as error:
        return stamps, str(error)
    return stamps, ""


def one_line(path: Path) -> str:
    """What a drive that can't be played says."""
    with pytest.raises(SourceError) as caught:
        list(replay(path))
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["bag", "db3", "mcap"])
@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"not a bag\n" * 100], ids=["empty", "zeros", "text"])
def test_a_file_that_is_no_bag_is_one_clear_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"drive.{suffix}"
    path.write_bytes(content)
    assert len(one_line(path)) > len(str(path)) + 10


@pytest.mark.parametrize("kind", ["sqlite3", "mcap", "ros1"])
def test_a_bag_that_is_cut_off_is_one_clear_line_wherever_it_is_cut(tmp_path: Path, kind: str) -> None:
    store = ROS1 if kind == "ros1" else ROS2
    path = write_bag(tmp_path / ("a.bag" if kind == "ros1" else "a"), {TOPIC: jpegs(store, STAMPS)}, kind)
    stored = path if path.is_file() else next(p for p in path.iterdir() if p.suffix != ".yaml")
    whole = stored.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.95):
        stored.write_bytes(whole[: int(len(whole) * share)])
        stamps, said = outcome(path)
        assert stamps == STAMPS[: len(stamps)]
        assert said
        assert "\n" not in said


def test_broken_or_missing_metadata_is_one_clear_line(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "a", {TOPIC: jpegs(ROS2, STAMPS)})
    for text in ("", "a: [", "rosbag2_bagfile_information: {version: 99}", "- 3"):
        (path / "metadata.yaml").write_text(text)
        assert "not a bag that can be read" in one_line(path)
    (path / "metadata.yaml").unlink()
    assert "without its metadata.yaml: give one file" in one_line(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2**30), bit=st.integers(0, 7), kind=st.sampled_from(["mcap", "ros1"]))
def test_a_flipped_bit_is_never_more_than_a_clear_error(tmp_path: Path, at: int, bit: int, kind: str) -> None:
    path = tmp_path / kind / ("a.bag" if kind == "ros1" else "a")
    if not path.exists():
        path.parent.mkdir()
        write_bag(path, {TOPIC: jpegs(ROS1 if kind == "ros1" else ROS2, STAMPS)}, kind)
    stored = path if path.is_file() else next(path.glob("*.mcap"))
    whole = stored.read_bytes()
    damaged = bytearray(whole)
    damaged[at % len(whole)] ^= 1 << bit
    stored.write_bytes(damaged)
    _, said = outcome(path)
    stored.write_bytes(whole)
    assert "\n" not in said


def test_without_rosbags_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bag(tmp_path / "a.bag", {TOPIC: jpegs(ROS1, STAMPS)}, "ros1")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "rosbags" else found(name, *a))
    with pytest.raises(SourceError, match=r"pip install 'perception-node\[ros\]'"):
        replay(path)


def foxglove(schema: str, stamp_ns: int, **fields: object) -> bytes:
    message = message_type(schema)(**fields)
    message.timestamp.FromNanoseconds(BEGIN_NS + stamp_ns)
    return message.SerializeToString()


def foxglove_json(stamp_ns: int, data: bytes, **fields: object) -> bytes:
    whole = BEGIN_NS + stamp_ns
    stamp = {"sec": whole // 10**9, "nsec": whole % 10**9}
    return json.dumps({"timestamp": stamp, "data": base64.b64encode(data).decode(), **fields}).encode()


def mcap_messages(form: str) -> tuple[str, str, list[bytes]]:
    """Schema, encoding and five messages of a red picture."""
    flat = np.tile(np.array([100, 0, 0], np.uint8), (HEIGHT, WIDTH, 1)).tobytes()
    size = {"width": WIDTH, "height": HEIGHT, "encoding": "rgb8", "step": 3 * WIDTH}
    compressed_name, raw_name = "foxglove.CompressedImage", "foxglove.RawImage"
    match form:
        case "compressed protobuf":
            data = [foxglove(compressed_name, ns, data=picture(".png"), format="png") for ns in STAMPS]
            return compressed_name, "protobuf", data
        case "raw protobuf":
            return raw_name, "protobuf", [foxglove(raw_name, ns, data=flat, **size) for ns in STAMPS]
        case "compressed json":
            return compressed_name, "json", [foxglove_json(ns, picture(".png"), format="png") for ns in STAMPS]
        case "raw json":
            return raw_name, "json", [foxglove_json(ns, flat, **size) for ns in STAMPS]
        case "ros1":
            rows = [compressed(ROS1, ns, picture(".png")) for ns in STAMPS]
            return "sensor_msgs/CompressedImage", "ros1", [bytes(ROS1.serialize_ros1(m, COMPRESSED)) for m in rows]
    rows = [raw(ROS2, ns, "rgb8", (WIDTH, HEIGHT), flat) for ns in STAMPS]
    return RAW, "cdr", [bytes(ROS2.serialize_cdr(m, RAW)) for m in rows]


@pytest.mark.parametrize("form", ["compressed protobuf", "raw protobuf", "compressed json", "raw json", "ros1", "cdr"])
def test_pictures_of_any_mcap_are_played(tmp_path: Path, form: str) -> None:
    path = write_mcap(tmp_path / "a.mcap", {"/cam": mcap_messages(form), "/words": ("", "json", [b"{}"])})
    frames = list(replay(path))
    check_replay(frames, (WIDTH, HEIGHT))
    assert [(frame.seq, frame.stamp_ns) for frame in frames] == list(enumerate(STAMPS))
    assert frames[0].image[3, 3].tolist() == [100, 0, 0]


def test_two_image_topics_of_an_mcap_are_listed(tmp_path: Path) -> None:
    messages = mcap_messages("compressed protobuf")
    path = write_mcap(tmp_path / "a.mcap", {"/left": messages, "/right": messages})
    with pytest.raises(SourceError, match=r"/left.*, /right.*choose one, like .*a\.mcap\?topic=/left"):
        replay(path)
    assert len(list(replay(f"{path}?topic=/left"))) == 5


def test_an_mcap_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", {"/words": ("my.Words", "json", [b"{}"])})
    with pytest.raises(SourceError, match=r"it holds /words \(my\.Words json\)"):
        replay(path)


def test_a_message_that_can_not_be_read_is_a_broken_shot(tmp_path: Path) -> None:
    for form in ("compressed protobuf", "raw json", "cdr", "ros1"):
        schema, encoding, data = mcap_messages(form)
        data[3] = b"\xff" * 7
        source = replay(write_mcap(tmp_path / "a.mcap", {"/cam": (schema, encoding, data)}))
        assert [frame.seq for frame in source] == [0, 1, 2, 4], form
        assert source.status().broken == 1


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "h265")])
def test_video_messages_are_decoded_each_at_its_stamp(tmp_path: Path, codec: str, name: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    packets = video_packets(codec)
    rows = [foxglove("foxglove.CompressedVideo", i * 10**8, data=p, format=name) for i, p in enumerate(packets)]
    path = write_mcap(tmp_path / "a.mcap", {"/cam": ("foxglove.CompressedVideo", "protobuf", rows)})
    frames = list(replay(path))
    check_replay(frames, (WIDTH, HEIGHT))
    assert [(f.seq, f.stamp_ns) for f in frames] == [(i, i * 10**8) for i in range(10)]
    assert [round((float(f.image.mean()) - 40) / 15) for f in frames] == list(range(10))
    late = list(replay(f"{path}?from=0.5"))
    assert [f.seq for f in late] == [5, 6, 7, 8, 9]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(frames[5:], late, strict=True))


def video_packets(codec: str) -> list[bytes]:
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt, context.framerate = WIDTH, HEIGHT, "yuv420p", Fraction(30)
    context.time_base = 1 / context.framerate
    quiet = {"x265-params": "log-level=none:bframes=0:repeat-headers=1"} if codec == "libx265" else {}
    context.options = {"preset": "ultrafast", "tune": "zerolatency", **quiet}
    packets: list[bytes] = []
    for i in range(10):
        frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 40 + 15 * i, np.uint8), format="rgb24")
        frame.pts = i
        packets.extend(bytes(packet) for packet in context.encode(frame))
    return packets


def our_recording(folder: Path, images: dict[int, bytes], offset_ns: int = BEGIN_NS, topic: str = "image") -> Path:
    """A recording of ours in two segments: images by sequence, 100 ms a number."""
    folder.mkdir()
    parts = [list(images.items())[:4], list(images.items())[4:]]
    for number, part in enumerate(parts):
        about = About("r", "front", "run", "clock", offset_ns, segment=number)
        segment = SegmentWriter(folder / f"{number:04}.mcap", about)
        for seq, data in part:
            stamp_ns = offset_ns + seq * 10**8
            row = foxglove("foxglove.CompressedImage", 0, data=data, format="jpeg")
            segment.write(
                Channel(f"/front/{topic}", "foxglove.CompressedImage", "protobuf"), row, stamp_ns, stamp_ns, seq
            )
        segment.close()
    return folder


def test_our_recording_keeps_places_and_stamps_since_its_first_picture(tmp_path: Path) -> None:
    images = {seq: picture(".jpg", value=10 * seq) for seq in (7, 8, 9, 11, 12, 14, 15)}
    images[12] = images[12][:200]
    path = our_recording(tmp_path / "drive", images)
    source = replay(path)
    frames = list(source)
    check_replay(frames, (WIDTH, HEIGHT))
    assert [(f.seq, f.stamp_ns) for f in frames] == [(i, i * 10**8) for i in (0, 1, 2, 4, 7, 8)]
    assert source.status().broken == 1
    late = list(replay(f"{path}?from=0.35&to=0.8"))
    assert [(f.seq, f.stamp_ns) for f in late] == [(i, i * 10**8) for i in (4, 7)]
    assert np.array_equal(late[0].image, frames[3].image)


def test_a_recording_without_pictures_is_a_result_and_says_so(tmp_path: Path) -> None:
    path = our_recording(tmp_path / "drive", {1: picture(".jpg")}, topic="masks/road")
    with pytest.raises(SourceError, match="recorded without pictures: give the drive whose masks it holds"):
        replay(path)


def test_ranges_of_a_bag_keep_place_and_stamp(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "a", {TOPIC: jpegs(ROS2, STAMPS)})
    frames = list(replay(f"{path}?topic={TOPIC}&from=0.06&to=0.15"))
    assert [(f.seq, f.stamp_ns) for f in frames] == [(2, STAMPS[2]), (3, STAMPS[3])]

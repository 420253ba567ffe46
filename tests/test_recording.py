"""Reading a recording: nothing wrong is ever delivered, and a damaged place costs no more than itself."""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import struct
import zlib
from pathlib import Path

import lz4.frame
import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk
from mcap.writer import CompressionType, IndexType, Writer

from perception.drives.layout import About, Certificate, Channel, Tally
from perception.drives.recording import open_recording
from perception.drives.segment import SegmentWriter
from perception.errors import RecordingError

PERIOD_NS = 33_000_000
IMAGE = Channel("/front/image", "foxglove.CompressedImage", "protobuf")
ROAD = Channel("/front/wire/road", "", "perception")
ABOUT = About("11111111-1111", "front", "run", "drive", 0, launch="{}", model="road")


def picture(i: int, size: int) -> bytes:
    """Bytes that nothing compresses, other ones for each frame."""
    return struct.pack("<I", i) + random.Random(i).randbytes(size)


def write_segment(
    path: Path, frames: range, *, size: int = 300, about: About = ABOUT, close: bool = True, images: bool = True
) -> Path:
    """Two messages a frame, one without `images`; returns the file."""
    writer = SegmentWriter(path, about)
    for i in frames:
        at = i * PERIOD_NS
        if images:
            writer.write(IMAGE, picture(i, size), at, at + 1, i)
        writer.write(ROAD, b"road" + struct.pack("<I", i), at, at + 2, i + 1)
        writer.flush()
    if not close:
        writer.abandon()
        return writer.active
    n = len(frames)
    writer.close(Certificate("end", 0, 1, {IMAGE.topic: Tally(n, n), ROAD.topic: Tally(n, n)}, captured=n, stepped=n))
    return path


def is_true(record) -> bool:
    """Whether this is a message that `write_segment` wrote, to the last bit."""
    i = record.log_ns // PERIOD_NS
    if record.topic == ROAD.topic:
        expected = (b"road" + struct.pack("<I", i), i * PERIOD_NS + 2, i + 1, "", "perception")
    else:
        size = len(record.data) - 4
        expected = (picture(i, size), i * PERIOD_NS + 1, i, IMAGE.schema, IMAGE.encoding)
    return (record.data, record.publish_ns, record.sequence, record.schema, record.encoding) == expected


def frames_of(path: Path, **options) -> int:
    found = [r for r in open_recording(path, **options).messages() if r.topic == IMAGE.topic]
    assert all(is_true(record) for record in found)
    return len(found)


@pytest.fixture
def segment(tmp_path):
    return write_segment(tmp_path / "0000.mcap", range(30))


def test_what_was_written_comes_back(segment):
    recording = open_recording(segment)
    found = list(recording.messages())
    assert (len(found), all(map(is_true, found))) == (60, True)
    assert recording.about == ABOUT
    assert recording.certificate is not None
    assert recording.certificate.is_complete
    assert {t: c.count for t, c in recording.channels.items()} == {IMAGE.topic: 30, ROAD.topic: 30}
    assert (recording.begin_ns, recording.end_ns, recording.is_finished) == (0, 29 * PERIOD_NS, True)
    assert recording.damage == ()


def test_topics_and_a_range_of_time(segment):
    found = list(open_recording(segment).messages([ROAD.topic], 5 * PERIOD_NS, 8 * PERIOD_NS))
    assert [r.sequence for r in found] == [6, 7, 8]


def test_segments_are_one_recording(tmp_path):
    for n in range(12):
        write_segment(
            tmp_path / f"{n:04d}.mcap", range(n * 3, n * 3 + 3), about=msgspec.structs.replace(ABOUT, segment=n)
        )
    recording = open_recording(tmp_path)
    assert [r.sequence for r in recording.messages([IMAGE.topic])] == list(range(36))
    assert recording.channels[IMAGE.topic].count == 36


def test_an_unfinished_segment_ends_at_its_last_whole_chunk(tmp_path):
    write_segment(tmp_path / "0000.mcap", range(5))
    active = write_segment(tmp_path / "0001.mcap", range(5, 9), close=False)
    active.write_bytes(active.read_bytes()[:-100])
    recording = open_recording(tmp_path)
    assert not recording.is_finished
    assert [r.sequence for r in recording.messages([IMAGE.topic])] in (list(range(9)), list(range(8)))
    assert recording.damage == ()


def test_a_last_segment_with_nothing_in_it_is_no_error(tmp_path):
    write_segment(tmp_path / "0000.mcap", range(5))
    (tmp_path / "0001.mcap.active").touch()
    assert frames_of(tmp_path) == 5


def test_a_missing_segment_is_named(tmp_path):
    for n in (3, 5):
        write_segment(tmp_path / f"{n:04d}.mcap", range(n, n + 1))
    with pytest.raises(RecordingError, match="segment 0004 before it is missing"):
        open_recording(tmp_path)
    assert frames_of(tmp_path, lenient=True) == 2


def test_two_recordings_in_one_folder_are_refused(tmp_path):
    write_segment(tmp_path / "0000.mcap", range(1))
    write_segment(tmp_path / "0001.mcap", range(1), about=msgspec.structs.replace(ABOUT, recording="2222"))
    with pytest.raises(RecordingError, match="of another recording"):
        open_recording(tmp_path, lenient=True)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b"\x89MCAP0\r\n", "cut short"),
        (b"\x89PNG" + bytes(100), "not an MCAP file"),
        (b"\x89MCAP0\r\n\x01" + b"\xff" * 8, "cut short"),
    ],
)
def test_what_is_no_recording(tmp_path, content, why):
    path = tmp_path / "drive.mcap"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=why):
        open_recording(path)


def test_nothing_there_and_an_empty_folder(tmp_path):
    with pytest.raises(RecordingError, match="no such recording"):
        open_recording(tmp_path / "none")
    with pytest.raises(RecordingError, match="no recording in it"):
        open_recording(tmp_path)
    os.mkfifo(tmp_path / "pipe.mcap")
    with pytest.raises(RecordingError, match="not a file"):
        open_recording(tmp_path / "pipe.mcap")


def test_a_folder_of_recordings_names_one(tmp_path):
    (tmp_path / "front-1").mkdir()
    write_segment(tmp_path / "front-1" / "0000.mcap", range(2))
    with pytest.raises(RecordingError, match=r"its folders hold some: give one, like .*front-1$"):
        open_recording(tmp_path)


def read_or_refuse(path: Path, *, lenient: bool) -> int:
    """Messages of a damaged file; anything but true messages or a RecordingError fails."""
    found = []
    with contextlib.suppress(RecordingError):
        for record in open_recording(path, lenient=lenient).messages():
            found.append(record)
    assert all(is_true(record) for record in found)
    return len(found)


def test_cut_at_every_byte(tmp_path):
    whole = write_segment(tmp_path / "0000.mcap", range(2), images=False).read_bytes()
    path = tmp_path / "cut.mcap"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        read_or_refuse(path, lenient=end % 2 == 0)


@pytest.mark.parametrize("close", [True, False], ids=["finished", "active"])
def test_single_flipped_bits(tmp_path, close):
    whole = write_segment(tmp_path / "0000.mcap", range(6), size=20, close=close).read_bytes()
    path, chance = tmp_path / "flipped.mcap", random.Random(5)
    missing = 0
    for bit in chance.sample(range(len(whole) * 8), 500):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        read_or_refuse(path, lenient=False)
        missing = max(missing, 12 - read_or_refuse(path, lenient=True))
    assert missing <= 2  # the frame whose chunk it was


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_in_place_of_others(tmp_path, data):
    path = tmp_path / "0000.mcap"
    if not path.exists():
        write_segment(path, range(6), size=60)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    instead = data.draw(st.binary(max_size=80))
    other = tmp_path / "other.mcap"
    other.write_bytes(whole[:at] + instead + whole[at + data.draw(st.integers(0, 120)) :])
    read_or_refuse(other, lenient=False)
    read_or_refuse(other, lenient=True)


def zeroed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(min(4096, len(data) - at)) + data[at + 4096 :]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def cut_out(data: bytes, at: int) -> bytes:
    return data[:at] + data[at + 100_000 :]


@pytest.mark.parametrize("close", [True, False], ids=["finished", "active"])
@pytest.mark.parametrize("damage", [flipped, zeroed, cut_out])
def test_a_bad_block_costs_five_frames_in_a_hundred_at_most(tmp_path, damage, close):
    whole = write_segment(tmp_path / "0000.mcap", range(300), size=20_000, close=close).read_bytes()
    path = tmp_path / "damaged.mcap"
    for at in (0, 60, *random.Random(1).sample(range(len(whole)), 6)):
        path.write_bytes(damage(whole, at))
        assert frames_of(path, lenient=True) >= 285, at


def test_strict_reading_stops_at_the_damage_and_lenient_reading_names_it(tmp_path):
    path = write_segment(tmp_path / "0000.mcap", range(30), size=1000)
    data = path.read_bytes()
    at = data.index(picture(12, 1000)[500:600])
    path.write_bytes(flipped(data, at))
    found = open_recording(path).messages([IMAGE.topic])
    assert [next(found).sequence for _ in range(12)] == list(range(12))
    with pytest.raises(RecordingError, match=r"0000\.mcap: a chunk's checksum does not fit .*recover"):
        next(found)
    lenient = open_recording(path, lenient=True)
    assert len(list(lenient.messages([IMAGE.topic]))) == 29
    (damage,) = lenient.damage
    assert damage.offset < at < damage.offset + damage.bytes


def test_a_flipped_summary_costs_no_message(tmp_path):
    path = write_segment(tmp_path / "0000.mcap", range(30))
    data = path.read_bytes()
    path.write_bytes(flipped(data, len(data) - 60))
    recording = open_recording(path)
    assert len(list(recording.messages())) == 60
    assert [d.what for d in recording.damage] == ["its summary is damaged"]


def chunk_file(path: Path, chunk: Chunk) -> Path:
    """A file with a header and this chunk."""
    buffer = io.BytesIO()
    Writer(buffer).start()
    builder = RecordBuilder()
    chunk.write(builder)
    path.write_bytes(buffer.getvalue() + builder.end())
    return path


def bomb(compression: str, told: int) -> Chunk:
    """A GiB of zeros, or a quarter of it, that says to be `told` bytes."""
    part = bytes(1 << 20)
    if compression == "lz4":
        packer = lz4.frame.LZ4FrameCompressor()
        data = packer.begin() + b"".join(packer.compress(part) for _ in range(256)) + packer.flush()
    else:
        packer = zstandard.ZstdCompressor().compressobj()
        data = b"".join(packer.compress(part) for _ in range(1024)) + packer.flush()
    return Chunk(compression, data, 0, 0, zlib.crc32(b""), told)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("told", [1 << 30, 1000], ids=["that says so", "that lies"])
def test_a_bomb_is_refused_before_it_is_expanded(tmp_path, compression, told):
    path = chunk_file(tmp_path / "bomb.mcap", bomb(compression, told))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert list(open_recording(path, lenient=True).messages()) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def write_foreign(path: Path, **options) -> Path:
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile="ros2", library="another")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.register_channel("/chatter", "cdr", schema)
        for i in range(50):
            writer.add_message(channel, i * 10, bytes(100) + bytes([i]), i * 10, i)
        writer.finish()
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": CompressionType.NONE},
        {"compression": CompressionType.LZ4, "chunk_size": 500},
        {"use_chunking": False},
        {"use_chunking": False, "enable_data_crcs": True},
        {"enable_crcs": False},
        {"index_types": IndexType.NONE, "use_summary_offsets": False},
        {"repeat_channels": False, "repeat_schemas": False, "use_statistics": False},
    ],
    ids=str,
)
def test_files_of_other_writers(tmp_path, options):
    recording = open_recording(write_foreign(tmp_path / "other.mcap", **options))
    assert recording.about is None
    assert recording.is_finished
    assert recording.channels == {"/chatter": Channel("/chatter", "std_msgs/msg/String", "cdr", 50)}
    assert [(r.log_ns, r.data[-1]) for r in recording.messages(None, 100, 200)] == [(i * 10, i) for i in range(10, 20)]
    assert (recording.begin_ns, recording.end_ns) == (0, 490)


def test_an_unchunked_file_is_read_only_if_its_checksum_fits(tmp_path):
    path = write_foreign(tmp_path / "other.mcap", use_chunking=False, enable_data_crcs=True)
    data = path.read_bytes()
    path.write_bytes(flipped(data, 2000))
    with pytest.raises(RecordingError, match="checksum"):
        list(open_recording(path).messages())


def test_a_unchunked_file_cut_short(tmp_path):
    path = write_foreign(tmp_path / "other.mcap", use_chunking=False)
    path.write_bytes(path.read_bytes()[:3000])
    recording = open_recording(path)
    assert not recording.is_finished
    assert 15 < len(list(recording.messages())) < 30

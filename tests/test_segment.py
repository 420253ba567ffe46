from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Channel as ChannelRecord
from mcap.records import Chunk, ChunkIndex, Message, Schema
from mcap.stream_reader import StreamReader

from perception.drives.layout import About, Certificate, Channel
from perception.drives.recording import open_recording
from perception.drives.schemas import DECISION
from perception.drives.segment import SegmentWriter, is_in_work, is_ours

ABOUT = About("recording-1", "front", "run-1", "boot", 0)
IMAGE = Channel("/front/image", "foxglove.RawImage", "protobuf")
DECISIONS = Channel("/front/decisions", DECISION, "json")
SECOND = 1_000_000_000
PAYLOAD = os.urandom(2000)


def write_frames(writer: SegmentWriter, count: int, first: int = 0) -> None:
    """At ten a second, each a chunk of two messages."""
    for i in range(first, first + count):
        writer.write(IMAGE, PAYLOAD, SECOND + i * SECOND // 10, 0, i)
        writer.write(DECISIONS, b"{}", SECOND + i * SECOND // 10, 0, i)
        writer.flush()


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def held_indices() -> int:
    """Of chunks, in the memory of this process."""
    gc.collect()
    return sum(type(held) is ChunkIndex for held in gc.get_objects())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0000.mcap"


def test_a_file_has_its_name_only_once_it_is_closed(path):
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 2)
    assert not path.exists()
    assert is_in_work(writer.active)
    writer.close(Certificate("done", 1, 1, {}))
    assert not writer.active.exists()
    assert is_ours(path)
    recording = open_recording(path)
    assert recording.about == ABOUT
    assert recording.certificate
    assert recording.certificate.reason == "done"


def test_what_is_flushed_is_in_the_file_before_it_is_closed(path):
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 3)
    records = []
    with writer.active.open("rb") as file, contextlib.suppress(EndOfFile):
        records.extend(StreamReader(file, validate_crcs=True).records)
    assert [r.sequence for r in records if isinstance(r, Message)] == [0, 0, 1, 1, 2, 2]
    writer.abandon()
    assert not is_in_work(writer.active)


def test_every_frame_is_one_chunk(path):
    writer = SegmentWriter(path, ABOUT)
    big = os.urandom(3 << 20)  # more than mcap puts into a chunk on its own
    writer.write(IMAGE, big, 1, 0, 0)
    writer.write(IMAGE, big, 1, 0, 1)
    writer.flush()
    writer.close()
    with path.open("rb") as file:
        chunks = [r for r in StreamReader(file, emit_chunks=True).records if isinstance(r, Chunk)]
    assert len([c for c in chunks if c.message_end_time]) == 1


@pytest.mark.parametrize("reader", [SeekingReader, NonSeekingReader])
def test_standard_readers_take_the_repeated_channels(path, reader):
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 35)
    writer.close()
    with path.open("rb") as file:
        found = list(reader(file, validate_crcs=True).iter_messages())
        assert len(found) == 70
        assert {(s.name, c.topic) for s, c, _ in found} == {(IMAGE.schema, IMAGE.topic), (DECISION, DECISIONS.topic)}
    with path.open("rb") as file:
        late = reader(file, validate_crcs=True).iter_messages(topics=[IMAGE.topic], starting_at=2 * SECOND)
        assert len(list(late)) == 25


def test_any_part_can_be_read_without_what_is_before(path):
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 40)
    writer.close()
    with path.open("rb") as file:
        stream = StreamReader(file, emit_chunks=True)
        begins = []
        for record in stream.records:
            if isinstance(record, Chunk) and not record.message_end_time:
                begins.append(file.tell() - 49 - len(record.data))  # opcode, length, and the chunk's fixed fields
    assert len(begins) == 14
    for begin, first in zip(begins[:-1], range(1, 40, 3), strict=True):
        with path.open("rb") as file:
            file.seek(begin)
            records = list(StreamReader(file, skip_magic=True, validate_crcs=True).records)
        schemas = {r.id: r.name for r in records if isinstance(r, Schema)}
        topics = {r.id: (r.topic, schemas[r.schema_id]) for r in records if isinstance(r, ChannelRecord)}
        messages = [r for r in records if isinstance(r, Message)]
        assert {topics[m.channel_id] for m in messages} == {(c.topic, c.schema) for c in (IMAGE, DECISIONS)}
        assert sorted({m.sequence for m in messages}) == list(range(first, 40))


def test_a_failed_flush_leaves_whole_chunks_and_can_be_repeated(path):
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 3)
    size = writer.active.stat().st_size
    writer.write(IMAGE, os.urandom(5000), 3 * SECOND, 0, 3)
    with file_limit(size + 1000), pytest.raises(OSError, match="too large"):
        writer.flush()
    assert writer.active.stat().st_size == size
    with file_limit(size + 1000), pytest.raises(OSError, match="too large"):
        writer.close()
    assert not path.exists()
    writer.close()
    assert [r.sequence for r in open_recording(path).messages({IMAGE.topic})] == [0, 1, 2, 3]


@pytest.mark.parametrize("end", [SegmentWriter.close, SegmentWriter.abandon])
def test_a_segment_that_is_done_holds_no_index(path, end):
    before = held_indices()
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 3)
    assert held_indices() == before + 3
    end(writer)
    assert held_indices() == before
    assert writer.size == (path if path.exists() else writer.active).stat().st_size


def test_a_segment_that_waits_for_room_holds_no_index(path):
    before = held_indices()
    writer = SegmentWriter(path, ABOUT)
    write_frames(writer, 3)
    with file_limit(writer.size + 10), pytest.raises(OSError, match="too large"):
        writer.close()
    assert held_indices() == before
    writer.close()
    assert len(list(open_recording(path).messages())) == 6


def test_nothing_is_overwritten(path):
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        SegmentWriter(path, ABOUT)
    path.unlink()
    writer = SegmentWriter(path, ABOUT)
    with pytest.raises(FileExistsError):
        SegmentWriter(path, ABOUT)
    writer.close()


def test_a_file_that_vanished_is_noticed(path):
    writer = SegmentWriter(path, ABOUT)
    writer.active.unlink()
    write_frames(writer, 1)
    with pytest.raises(FileNotFoundError):
        writer.sync()
    writer.abandon()


def test_other_files_are_not_ours(path):
    path.write_bytes(b"\x89MCAP0\r\n" + bytes(56))
    assert not is_ours(path)
    assert not is_in_work(path)
    assert not is_in_work(path.with_name("absent"))

"""The records and chunks of an MCAP file (mcap.dev/spec), taken apart without trusting a length or a byte of them."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from perception.errors import RecordingError

MAGIC = b"\x89MCAP0\r\n"
LIMIT = 1 << 28
"""The largest record and the largest chunk, expanded, that is read [bytes]; more is taken for a bomb."""
FRAME = struct.Struct("<BQ")  # opcode, length of what follows
DEFINING = (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE)

_CHUNK = struct.Struct("<QQQII")  # begin, end, size, CRC, length of the compression's name
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_WINDOW, _OVERLAP = 4 << 20, 64
_T = TypeVar("_T")

# A chunk's record up to the name of its compression; lengths beyond 2^40 are never right.
_LIKE_A_CHUNK = re.compile(rb"\x06(?=.{5}\0{3}.{21}\0{3}.{4}(?:\x03\0{3}lz4|\x04\0{3}zstd|\0{4}))", re.DOTALL)


class Frame(NamedTuple):
    """Where a record of a file lies."""

    opcode: int
    at: int  # of its opcode
    end: int


class Place(NamedTuple):
    """One message in the content of a chunk."""

    channel: int
    sequence: int
    log_ns: int
    publish_ns: int
    begin: int
    end: int


@dataclass(slots=True)
class Definitions:
    """Schemas and channels by their ids in one file."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)

    def add(self, record: Schema | Channel) -> None:
        """Raises RecordingError where the id already means something else."""
        known = self.schemas if isinstance(record, Schema) else self.channels
        if known.setdefault(record.id, record) != record:  # type: ignore[arg-type]
            raise RecordingError(f"{type(record).__name__.lower()} {record.id} is defined twice, differently")


@contextmanager
def guarded() -> Iterator[None]:
    """Make RecordingError of whatever damaged bytes bring a library to raise; the caller names the file."""
    try:
        yield
    except RecordingError:
        raise
    except OSError as error:
        raise RecordingError(error.strerror or str(error)) from None
    except EndOfFile:
        raise RecordingError("a record is cut short") from None
    except Exception as error:  # struct, unicode, lz4, zstandard, msgspec, MemoryError: no end of kinds
        raise RecordingError(f"it is damaged: {error or type(error).__name__}") from None


class Disk:
    """The bytes of a file, as long as it was when it was opened; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def read(self, at: int, count: int) -> bytes:
        """Exactly these bytes. Raises RecordingError where the file does not hold them."""
        if count > LIMIT:
            raise RecordingError(f"a record of {count} bytes: at most {LIMIT} are read")
        data = os.pread(self._descriptor, count, at) if 0 <= at <= self.size - count else b""
        if len(data) != count:
            raise RecordingError("a record is cut short")
        return data

    def some(self, at: int, count: int) -> bytes:
        """These bytes, or fewer at the end of the file."""
        return os.pread(self._descriptor, count, at)

    def frame(self, at: int) -> Frame:
        """The record at `at`. Raises RecordingError where it does not fit into the file."""
        opcode, length = FRAME.unpack(self.read(at, FRAME.size))
        end = at + FRAME.size + length
        if end > self.size:
            raise RecordingError("a record is cut short")
        return Frame(opcode, at, end)

    def body(self, frame: Frame) -> bytes:
        return self.read(frame.at + FRAME.size, frame.end - frame.at - FRAME.size)


class Strict(ReadDataStream):
    """mcap's stream over a record's bytes, which accepts short reads, made to refuse them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))

    def read(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) != length:
            raise EndOfFile
        self._count += length
        return data


def parse(read: Callable[[ReadDataStream], _T], body: bytes) -> _T:
    """A record by its reader in mcap.records. Raises RecordingError unless it is as long as its content."""
    with guarded():
        stream = Strict(body)
        record = read(stream)
        if stream.count != len(body):
            raise RecordingError("a record is longer than its content")
        return record


def open_chunk(body: bytes, *, need_crc: bool) -> bytes:
    """The content of a chunk record, proven by its checksum.

    Args:
        body: of the record.
        need_crc: refuse a chunk without one; MCAP leaves it to the writer, and some ROS recorders save it.

    Raises:
        RecordingError: it is damaged, or expands to more than `LIMIT`; nothing was expanded then.
    """
    with guarded():
        _, _, size, crc, length = _CHUNK.unpack_from(body)
        begin = _CHUNK.size + length + 8
        compression = body[_CHUNK.size : begin - 8]
        if length > 16 or struct.unpack_from("<Q", body, begin - 8)[0] != len(body) - begin:
            raise RecordingError("a chunk's lengths contradict each other")
        if size > LIMIT:
            raise RecordingError(f"a chunk of {size} bytes when expanded: at most {LIMIT} are read")
        content = _expand(compression, body[begin:], size)
        if len(content) != size:
            raise RecordingError("a chunk does not have the size that it tells")
        if (need_crc or crc) and zlib.crc32(content) != crc:
            raise RecordingError("a chunk's checksum does not fit")
        return content


def _expand(compression: bytes, data: bytes, size: int) -> bytes:
    """At most one byte more than `size`, so that a chunk that lies about it costs nothing."""
    match compression:
        case b"":
            return data
        case b"lz4":
            return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        case b"zstd":
            if zstandard.frame_content_size(data) not in (-1, size):
                raise RecordingError("a chunk does not have the size that it tells")
            with zstandard.ZstdDecompressor(max_window_size=LIMIT).stream_reader(data) as stream:
                return stream.read(size + 1)
    name = compression.decode("ascii", "replace")
    raise RecordingError(f"a chunk is compressed by {name!r}: lz4 and zstd can be read")


def records(content: bytes) -> Iterator[Frame]:
    """The records in a chunk. Raises RecordingError where they do not fill it exactly."""
    at, size = 0, len(content)
    while at < size:
        if at + FRAME.size > size:
            raise RecordingError("a chunk ends inside a record")
        opcode, length = FRAME.unpack_from(content, at)
        end = at + FRAME.size + length
        if end > size:
            raise RecordingError("a chunk ends inside a record")
        yield Frame(opcode, at, end)
        at = end


def messages(content: bytes) -> Iterator[Place]:
    """The messages in a chunk, in order."""
    for opcode, at, end in records(content):
        if opcode == Opcode.MESSAGE:
            begin = at + FRAME.size + _MESSAGE.size
            if begin > end:
                raise RecordingError("a message is shorter than its header")
            channel, sequence, log_ns, publish_ns = _MESSAGE.unpack_from(content, at + FRAME.size)
            yield Place(channel, sequence, log_ns, publish_ns, begin, end)


def definitions(content: bytes) -> Iterator[Schema | Channel]:
    """The schemas and channels that a chunk, or a summary, defines."""
    for opcode, at, end in records(content):
        if opcode == Opcode.SCHEMA:
            yield parse(Schema.read, content[at + FRAME.size : end])
        elif opcode == Opcode.CHANNEL:
            yield parse(Channel.read, content[at + FRAME.size : end])


def next_chunk(disk: Disk, at: int) -> int | None:
    """Where the first chunk at or after `at` begins whose checksum fits; None where there is none."""
    while at < disk.size:
        window = disk.some(at, _WINDOW)
        for found in _LIKE_A_CHUNK.finditer(window):
            if _is_chunk(disk, at + found.start()):
                return at + found.start()
        if len(window) <= _OVERLAP:
            return None
        at += len(window) - _OVERLAP
    return None


def _is_chunk(disk: Disk, at: int) -> bool:
    try:
        for _ in records(open_chunk(disk.body(disk.frame(at)), need_crc=True)):
            pass
    except RecordingError:
        return False
    return True

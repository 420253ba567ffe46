"""What one MCAP file holds and where, as the summary at its end tells it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from mcap.opcode import Opcode
from mcap.records import Header, Metadata, MetadataIndex, Statistics

from perception.drives.chunks import (
    FRAME,
    LIMIT,
    MAGIC,
    Definitions,
    Disk,
    Frame,
    definitions,
    guarded,
    parse,
    records,
)
from perception.drives.layout import ABOUT, CERTIFICATE, About, Certificate, from_metadata
from perception.errors import RecordingError

OURS = "perception"
"""What the header of a file of ours names as its library."""
BAD_SUMMARY = "its summary is damaged"
SAVES = "`perception drive recover` saves the rest"

_FOOTER = struct.Struct("<QQI")  # summary start, summary offset start, CRC
_FOOTER_SIZE = FRAME.size + _FOOTER.size + len(MAGIC)
_OFFSET = struct.Struct("<BQQ")  # opcode, start, length of a group of the summary
_CHUNK_INDEX = struct.Struct("<QQQQI")  # begin, end, offset, length, bytes of the map that follows
_METADATA_LIMIT, _METADATA_COUNT = 16 << 20, 1000


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a recording that can't be read."""

    file: Path
    offset: int
    bytes: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what} (byte {self.offset})"


class Entry(NamedTuple):
    """One chunk, or a stretch of messages of a file without chunks."""

    offset: int
    length: int
    begin_ns: int
    end_ns: int
    channels: frozenset[int] | None = None  # that have messages in it; None where the file does not tell
    is_chunk: bool = True
    damage: str = ""  # what is wrong, of a stretch that is known to be damaged


@dataclass
class FileIndex:
    """What is known of a file without its messages.

    Attributes:
        is_finished: it was closed in order: its end is there.
        counts: messages by channel id.
        expected: the same, as its summary tells it; None where it has none.
        span: log time of the first and of the last message [ns]; None without messages.
        damage: found while it was read through; empty where its summary was sound.
        tail: bytes at the end of an unfinished file that are no whole chunk.
        attachments: how many it has; they are not read.
    """

    path: Path
    size: int
    header: Header
    is_finished: bool
    names: Definitions = field(default_factory=Definitions)
    counts: dict[int, int] = field(default_factory=dict)
    expected: dict[int, int] | None = None
    chunk_count: int = 0
    span: tuple[int, int] | None = None
    about: About | None = None
    certificate: Certificate | None = None
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    tail: int = 0
    attachments: int = 0
    scanned: list[Entry] | None = None

    @property
    def is_ours(self) -> bool:
        return self.header.library == OURS or self.about is not None

    @cached_property
    def entries(self) -> list[Entry]:
        """In the order of the file. Raises RecordingError where the file was changed since it was opened."""
        if self.scanned is not None:
            return self.scanned
        with guarded(), Disk(self.path) as disk:
            summary = read_summary(disk)
            if summary is None:
                raise RecordingError("it was changed while it was read")
            content = summary.group(Opcode.CHUNK_INDEX)
            entries = [_entry(content, frame, self.size) for frame in records(content)]
            if len(entries) != self.chunk_count:
                raise RecordingError(f"its summary tells of {self.chunk_count} chunks and points at {len(entries)}")
            return entries

    def take(self, name: str, texts: dict[str, str]) -> None:
        """Add a metadata record. Raises RecordingError where one of ours is damaged."""
        if name == ABOUT:
            self.about = from_metadata(texts, About)
        elif name == CERTIFICATE:
            self.certificate = from_metadata(texts, Certificate)
        else:
            self.metadata[name] = texts

    def widen(self, begin_ns: int, end_ns: int) -> None:
        low, high = self.span or (begin_ns, end_ns)
        self.span = min(low, begin_ns), max(high, end_ns)


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary section, proven by its checksum."""

    start: int
    content: bytes
    offsets_at: int  # in the content; where the offsets of its groups begin

    def group(self, opcode: int) -> bytes:
        """All records of a kind, one after the other."""
        parts = []
        groups = list(records(self.content[self.offsets_at :])) if self.offsets_at else []
        for _, at, end in groups:
            kind, start, length = _OFFSET.unpack(
                self.content[self.offsets_at + at + FRAME.size : self.offsets_at + end]
            )
            if kind == opcode:
                parts.append(self.content[start - self.start : start - self.start + length])
        if not groups:
            parts = [self.content[at:end] for kind, at, end in records(self.content) if kind == opcode]
        return b"".join(parts)


def read_summary(disk: Disk, start: int | None = None) -> Summary | None:
    """The summary of a file, None where it has none that is whole; `start` where it is known to have been moved."""
    footer = footer_of(disk)
    if not footer or not footer[0] or not footer[2]:
        return None
    start = footer[0] if start is None else start
    length = disk.size - _FOOTER_SIZE - start
    if not len(MAGIC) < start or not 0 < length <= LIMIT:
        return None
    content = disk.read(start, length)
    front = disk.read(start + length, FRAME.size + _FOOTER.size - 4)
    if zlib.crc32(front, zlib.crc32(content)) != footer[2]:
        return None
    offsets_at = footer[1] - footer[0] if footer[1] else 0
    return Summary(footer[0], content, offsets_at if 0 < offsets_at < length else 0)


def footer_of(disk: Disk) -> tuple[int, int, int] | None:
    if disk.size < _FOOTER_SIZE + len(MAGIC):
        return None
    end = disk.read(disk.size - _FOOTER_SIZE, _FOOTER_SIZE)
    if FRAME.unpack_from(end) != (Opcode.FOOTER, _FOOTER.size) or not end.endswith(MAGIC):
        return None
    return _FOOTER.unpack_from(end, FRAME.size)


def header_of(disk: Disk) -> tuple[Header, int]:
    """And where it ends."""
    if not disk.size:
        raise RecordingError("an empty file")
    if disk.some(0, len(MAGIC)) != MAGIC:
        is_closed = disk.some(max(0, disk.size - len(MAGIC)), len(MAGIC)) == MAGIC
        raise RecordingError(f"its beginning is damaged: {SAVES}" if is_closed else "not an MCAP file")
    frame = disk.frame(len(MAGIC))
    if frame.opcode != Opcode.HEADER or frame.end - frame.at > 1 << 16:
        raise RecordingError(f"its header is damaged: {SAVES}")
    return parse(Header.read, disk.body(frame)), frame.end


def index_of(disk: Disk, header: Header, summary: Summary) -> FileIndex | None:
    """None where the summary does not say enough to find every message."""
    statistics = [parse(Statistics.read, b) for b in bodies(summary.group(Opcode.STATISTICS))]
    if len(statistics) != 1:
        return None
    told = statistics[0]
    index = FileIndex(disk.path, disk.size, header, is_finished=True, attachments=told.attachment_count)
    for record in definitions(summary.group(Opcode.SCHEMA) + summary.group(Opcode.CHANNEL)):
        index.names.add(record)
    index.counts = index.expected = told.channel_message_counts
    index.chunk_count = told.chunk_count
    is_indexed = not told.message_count or summary.group(Opcode.CHUNK_INDEX)
    if not is_indexed or not set(index.counts) <= set(index.names.channels):
        return None
    if told.message_count:
        index.span = told.message_start_time, told.message_end_time
    for body in bodies(summary.group(Opcode.METADATA_INDEX))[:_METADATA_COUNT]:
        where = parse(MetadataIndex.read, body)
        name, texts = metadata_at(disk, disk.frame(where.offset))
        if name != where.name:
            raise RecordingError("its metadata is not where its index says")
        index.take(name, texts)
    return index if index.about or header.library != OURS else None


def bodies(group: bytes) -> list[bytes]:
    return [group[at + FRAME.size : end] for _, at, end in records(group)]


def metadata_at(disk: Disk, frame: Frame) -> tuple[str, dict[str, str]]:
    if frame.opcode != Opcode.METADATA or frame.end - frame.at > _METADATA_LIMIT:
        raise RecordingError("its metadata is damaged")
    record = parse(Metadata.read, disk.body(frame))
    return record.name, record.metadata


def _entry(group: bytes, frame: Frame, size: int) -> Entry:
    # by hand: mcap's reader takes 30 us for each, and a minute has 1800
    at = frame.at + FRAME.size
    begin_ns, end_ns, offset, length, n = _CHUNK_INDEX.unpack_from(group, at)
    at += _CHUNK_INDEX.size
    if at + n > frame.end or n % 10 or offset + length > size:
        raise RecordingError("its index of chunks is damaged")
    return Entry(offset, length, begin_ns, end_ns, _ids(struct.unpack("<" + "H8x" * (n // 10), group[at : at + n])))


@lru_cache(maxsize=256)
def _ids(ids: tuple[int, ...]) -> frozenset[int] | None:
    """One set for all chunks that hold the same channels."""
    return frozenset(ids) or None

"""The index of an MCAP file: from its summary, or by reading it through and finding what is whole behind damage."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mcap.opcode import Opcode
from mcap.records import Header, Statistics

from perception.drives.chunks import (
    DEFINING,
    FRAME,
    MAGIC,
    Disk,
    Frame,
    definitions,
    guarded,
    messages,
    next_chunk,
    open_chunk,
    parse,
)
from perception.drives.index import (
    BAD_SUMMARY,
    OURS,
    SAVES,
    Damage,
    Entry,
    FileIndex,
    bodies,
    footer_of,
    header_of,
    index_of,
    metadata_at,
    read_summary,
)
from perception.drives.layout import ABOUT, CERTIFICATE
from perception.errors import RecordingError

_RUN = 1 << 20  # of a file without chunks is taken at once [bytes]
_FOREVER = (1 << 64) - 1
_PRIVATE = 0x80  # opcodes from here on are for whoever wants them; readers skip them


def read_index(path: Path, *, lenient: bool = False, thorough: bool = False) -> FileIndex:
    """The index of a file; a thorough one from reading it through, though its summary is sound.

    Raises RecordingError, which does not name the file, where it is no MCAP file, or where what it says of itself is
    damaged and `lenient` is False.
    """
    with guarded(), Disk(path) as disk:
        try:
            header, at = header_of(disk)
        except RecordingError:
            first = next_chunk(disk, 0) if lenient else None
            if first is None:
                raise
            scan = Scan(disk, Header("", OURS))
            scan.hole(0, first, "its beginning is damaged")
            return scan.run(first)
        found = None if thorough else _by_summary(disk, header)
        if found:
            return found
        index = Scan(disk, header).run(at)
        if not lenient and index.header.library == OURS and not index.about and index.scanned:
            raise RecordingError(f"what it says of itself is damaged: {SAVES}")
        return index


def _by_summary(disk: Disk, header: Header) -> FileIndex | None:
    """None where it has to be read through: it has no summary, or one that is damaged, wrong or does not say enough."""
    summary = read_summary(disk)
    try:
        return index_of(disk, header, summary) if summary else None
    except RecordingError:
        return None  # reading it through tells what is damaged


class Scan:
    """Reads a file through, proves every chunk, and finds the next whole one behind a damaged place."""

    def __init__(self, disk: Disk, header: Header) -> None:
        self.disk = disk
        self.entries: list[Entry] = []
        self._end_of_run = 0
        self.counts: Counter[int] = Counter()
        self.index = FileIndex(disk.path, disk.size, header, is_finished=footer_of(disk) is not None)

    def run(self, at: int) -> FileIndex:
        """The index of the file whose first record after the header is at `at`."""
        proven = at  # the end of the last record whose checksum fitted
        while at < self.disk.size:
            try:
                with guarded():
                    frame = self.disk.frame(at)
                    if frame.opcode == Opcode.DATA_END:
                        self._end(frame)
                        break
                    if self._take(frame):
                        proven = frame.end
                    at = max(frame.end, self._end_of_run)
            except RecordingError as error:
                found = next_chunk(self.disk, proven if proven < at else at + 1)
                if found is None:
                    self._give_up(at, str(error))
                    break
                self.hole(min(proven, at), found, str(error))
                at = proven = found
        self.index.scanned = list(_bounded(self.entries))
        self.index.counts = dict(self.counts)
        return self.index

    _end_of_run = 0

    def _take(self, frame: Frame) -> bool:
        """Take a record in; whether a checksum proved it."""
        is_ours = self.index.is_ours
        length = frame.end - frame.at - FRAME.size
        if frame.opcode == Opcode.CHUNK:
            content = open_chunk(self.disk.body(frame), need_crc=is_ours)
            self._add(content, frame.at, frame.end, is_chunk=True)
            return True
        if frame.opcode == Opcode.METADATA:
            name, texts = metadata_at(self.disk, frame)
            self.index.take(name, texts)
            return name in (ABOUT, CERTIFICATE)
        if frame.opcode == Opcode.MESSAGE_INDEX:
            if length < 6 or struct.unpack("<I", self.disk.read(frame.at + FRAME.size + 2, 4))[0] != length - 6:
                raise RecordingError("an index of messages is damaged")
            return False
        if is_ours or not (frame.opcode in (*DEFINING, Opcode.ATTACHMENT) or frame.opcode >= _PRIVATE):
            raise RecordingError(f"a record of kind {frame.opcode} where none belongs")
        if frame.opcode in DEFINING:
            self._add_run(frame)
        self.index.attachments += frame.opcode == Opcode.ATTACHMENT
        return frame.opcode in DEFINING

    def _add_run(self, frame: Frame) -> None:
        end = frame.end
        while end - frame.at < _RUN and end < self.disk.size:
            try:
                following = self.disk.frame(end)
            except RecordingError:
                break
            if following.opcode not in DEFINING:
                break
            end = following.end
        self._add(self.disk.read(frame.at, end - frame.at), frame.at, end, is_chunk=False)
        self._end_of_run = end

    def _add(self, content: bytes, at: int, end: int, *, is_chunk: bool) -> None:
        with guarded():
            places = list(messages(content))
            for record in definitions(content):
                self.index.names.add(record)
        self.counts.update(place.channel for place in places)
        if places:
            times = [place.log_ns for place in places]
            self.index.widen(min(times), max(times))
            ids = frozenset(place.channel for place in places)
            self.entries.append(Entry(at, end - at, min(times), max(times), ids, is_chunk))

    def hole(self, at: int, end: int, what: str) -> None:
        self.index.damage.append(Damage(self.disk.path, at, end - at, what))
        self.entries.append(Entry(at, end - at, 0, _FOREVER, damage=what))

    def _give_up(self, at: int, what: str) -> None:
        """No whole chunk follows: the file ends in the middle of one, or, where it was closed, is damaged there."""
        if self.index.is_finished:
            self.hole(at, self.disk.size, what)
        else:
            self.index.tail = self.disk.size - at

    def _end(self, frame: Frame) -> None:
        """The end of the data: check what can be checked, and take the names from the summary."""
        (crc,) = struct.unpack("<I", self.disk.body(frame))
        if crc and not all(entry.is_chunk for entry in self.entries) and crc != _crc(self.disk, frame.at):
            self.entries, self.counts, self.index.span = [], Counter(), None  # nothing else proves a message
            self.hole(len(MAGIC), frame.at, "the checksum over its messages does not fit")
        summary = read_summary(self.disk, frame.end)
        if summary:
            for record in definitions(summary.group(Opcode.SCHEMA) + summary.group(Opcode.CHANNEL)):
                self.index.names.add(record)
            for body in bodies(summary.group(Opcode.STATISTICS)):
                self.index.expected = parse(Statistics.read, body).channel_message_counts
            return
        footer = footer_of(self.disk)
        if footer is None or (footer[0] and footer[2]):
            where = Damage(self.disk.path, frame.end, self.disk.size - frame.end, BAD_SUMMARY)
            self.index.damage.append(where)


def _crc(disk: Disk, end: int) -> int:
    crc = 0
    for at in range(0, end, _RUN):
        crc = zlib.crc32(disk.read(at, min(_RUN, end - at)), crc)
    return crc


def _bounded(entries: list[Entry]) -> Iterator[Entry]:
    """With the time that a damaged stretch can be of: between its neighbours."""
    for i, entry in enumerate(entries):
        if entry.damage:
            begin_ns = next((e.begin_ns for e in reversed(entries[:i]) if not e.damage), 0)
            end_ns = next((e.end_ns for e in entries[i + 1 :] if not e.damage), _FOREVER)
            yield entry._replace(begin_ns=begin_ns, end_ns=end_ns)
        else:
            yield entry

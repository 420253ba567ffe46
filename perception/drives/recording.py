"""A recording on disk, read safely: one MCAP file, or a folder of segments."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from mcap.opcode import Opcode
from mcap.records import Channel as ChannelRecord
from mcap.records import Schema

from perception.drives.chunks import Disk, Place, guarded, messages, open_chunk
from perception.drives.index import SAVES, Damage, Entry, FileIndex
from perception.drives.layout import ACTIVE, SUFFIX, About, Certificate, Channel, Record
from perception.drives.scan import read_index
from perception.errors import RecordingError

__all__ = ["Damage", "Recording", "open_recording"]

RECOVERED = "perception.recovered"
"""Name of the metadata record that a recovered file gets: what was lost before it is accepted."""
_OURS = re.compile(r"(\d{4,})\.mcap(\.active)?")


class Recording:
    """Messages of a recording in the order in which they were written; `open_recording` makes one.

    No file is held open but the one that `messages` is reading.

    Attributes:
        path: as given.
        segments: its files in order.
        about: what it says of itself; None where perception did not write it.
        certificate: None where it was not closed in order.
        channels: by topic.
        begin_ns: log time of the first message [ns]; 0 without messages. `end_ns`: of the last one.
        is_finished: every file was closed in order. False while it is being written, or where a crash ended it: it is
            then read to its last whole chunk, without an error.
        metadata: other metadata records of its files, by name.
        absent: segments that are not there and files that can't be read at all; with `lenient` alone.
    """

    def __init__(self, path: Path, files: list[FileIndex], found: list[Damage], *, lenient: bool) -> None:
        self.path, self.files = path, files
        self.segments = tuple(file.path for file in files)
        self.about: About | None = next((file.about for file in files if file.about), None)
        self.certificate: Certificate | None = files[-1].certificate
        self.is_finished = all(file.is_finished for file in files)
        self.metadata = {name: texts for file in files for name, texts in file.metadata.items()}
        self.channels = _channels(files)
        spans = [file.span for file in files if file.span]
        self.begin_ns = min((span[0] for span in spans), default=0)
        self.end_ns = max((span[1] for span in spans), default=0)
        self._lenient = lenient
        self.absent = tuple(found)
        self._damage = {(d.file, d.offset): d for d in (*found, *(d for file in files for d in file.damage))}

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What is known to be damaged; grows while messages are read."""
        return tuple(self._damage.values())

    def messages(
        self, topics: Collection[str] | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Record]:
        """Those of these topics (None: all) with begin_ns <= log time < end_ns, in file order.

        Raises RecordingError where the recording is damaged, after what is before that; opened lenient, it goes on
        behind it and adds to `damage`.
        """
        begin, end = begin_ns or 0, (1 << 64) if end_ns is None else end_ns
        for file in self.files:
            if (file.span and file.span[0] < end and file.span[1] >= begin) or file.damage:
                yield from self._of(file, topics, begin, end)

    def definition(self, topic: str) -> tuple[ChannelRecord, Schema | None]:
        """The channel as MCAP has it, and its schema. Raises KeyError for a topic that the recording does not have."""
        for file in self.files:
            for channel in file.names.channels.values():
                if channel.topic == topic:
                    return channel, file.names.schemas.get(channel.schema_id)
        raise KeyError(topic)

    def close(self) -> None:
        """Nothing stays open; for symmetry with other sources. Twice is fine."""

    def _of(self, file: FileIndex, topics: Collection[str] | None, begin: int, end: int) -> Iterator[Record]:
        named = {n: _names(c, file.names.schemas) for n, c in file.names.channels.items()}
        wanted = {n: texts for n, texts in named.items() if topics is None or texts[0] in topics}
        with _naming(file.path):
            entries = file.entries
            disk = Disk(file.path)
        with disk:
            for entry in entries:
                if entry.begin_ns >= end or entry.end_ns < begin:
                    continue
                if entry.channels is None or not entry.channels.isdisjoint(wanted) or entry.channels - named.keys():
                    yield from self._read(disk, file, entry, (named, wanted), (begin, end))

    def _read(
        self,
        disk: Disk,
        file: FileIndex,
        entry: Entry,
        names: tuple[dict[int, tuple[str, str, str]], dict[int, tuple[str, str, str]]],
        span: tuple[int, int],
    ) -> Iterator[Record]:
        named, wanted = names
        try:
            content, places = _content(disk, file, entry)
        except RecordingError as error:
            self._meet(Damage(file.path, entry.offset, entry.length, str(error)))
            return
        begin, end = span
        for place in places:
            if place.channel in wanted and begin <= place.log_ns < end:
                log_ns, publish_ns, sequence = place.log_ns, place.publish_ns, place.sequence
                data = content[place.begin : place.end]
                yield Record(*wanted[place.channel], log_ns, publish_ns, sequence, data)
            elif place.channel not in named:
                what = f"a message on channel {place.channel}, which nothing defines"
                self._meet(Damage(file.path, entry.offset, entry.length, what))

    def _meet(self, damage: Damage) -> None:
        if not self._lenient:
            raise RecordingError(f"{damage}: {SAVES}")
        self._damage.setdefault((damage.file, damage.offset), damage)


def _content(disk: Disk, file: FileIndex, entry: Entry) -> tuple[bytes, list[Place]]:
    if entry.damage:
        raise RecordingError(entry.damage)
    if entry.is_chunk:
        frame = disk.frame(entry.offset)
        if frame.opcode != Opcode.CHUNK or frame.end - frame.at != entry.length:
            raise RecordingError("a chunk is not where its index says")
        content = open_chunk(disk.body(frame), need_crc=file.is_ours)
    else:
        content = disk.read(entry.offset, entry.length)
    with guarded():
        return content, list(messages(content))


def open_recording(path: Path, *, lenient: bool = False, thorough: bool = False) -> Recording:
    """The recording at `path`: an MCAP file of any writer, or a folder of segments.

    Args:
        path: `.mcap`, `.mcap.active`, or a folder with such files.
        lenient: skip what is damaged, missing or not a segment, and list it in `damage`.
        thorough: read every file through at once, and find also damage that costs no message.

    Raises:
        RecordingError: there is none, it is of another kind or version, two recordings are mixed, or, unless lenient,
            a segment is missing or what the recording says of itself is damaged.
    """
    if path.is_dir():
        paths = _in_order(path)
    elif path.exists() and not path.is_file():  # a FIFO would be waited for
        raise RecordingError(f"{path}: not a file: give an {SUFFIX} file or a folder of them")
    elif path.exists():
        paths = [path]
    else:
        raise RecordingError(f"{path}: no such recording: give an {SUFFIX} file or a folder of them")
    files: list[FileIndex] = []
    found: list[Damage] = []
    for each in paths:
        try:
            with _naming(each):
                files.append(read_index(each, lenient=lenient, thorough=thorough))
        except RecordingError as error:
            is_unbegun = each is paths[-1] and files and each.name.endswith(ACTIVE)  # killed before it wrote anything
            if not lenient and is_unbegun:
                continue
            if not lenient or len(paths) == 1:
                raise
            what = str(error).removeprefix(f"{each}: ")
            found.append(Damage(each, 0, each.stat().st_size, what))
    if not files:
        raise RecordingError(f"{path}: none of its {len(paths)} files is an MCAP file")
    _check_one(files)
    missing = _missing(files)
    if missing and not lenient:
        raise RecordingError(str(missing[0]))
    found += missing
    return Recording(path, files, found, lenient=lenient)


def _in_order(folder: Path) -> list[Path]:
    """The segments of a folder: by number, whatever the names are."""
    found = [p for p in folder.iterdir() if p.name.endswith((SUFFIX, ACTIVE)) and p.is_file()]
    if not found:
        below = next((p.parent for n in (1, 2) for p in sorted(folder.glob(f"{'*/' * n}*{SUFFIX}*"))), None)
        told = f"its folders hold some: give one, like {below}" if below else f"give a folder with {SUFFIX} files"
        raise RecordingError(f"{folder}: no recording in it: {told}")
    return sorted(found, key=lambda p: [(len(t), t) if t.isdigit() else (0, t) for t in re.split(r"(\d+)", p.name)])


def _missing(files: list[FileIndex]) -> list[Damage]:
    """What the numbers of our segments tell; what was missing at a recovery is not told again."""
    numbers = [(int(m[1]), file) for file in files if (m := _OURS.fullmatch(file.path.name))]
    found = []
    for (a, before), (b, after) in pairwise(numbers):
        if b == a:
            what = f"it is there twice, the other is {before.path.name}: move one away"
            found.append(Damage(after.path, 0, 0, what))
        elif b > a + 1 and RECOVERED not in after.metadata:
            which = f"{a + 1:04d}" if b == a + 2 else f"{a + 1:04d} to {b - 1:04d}"
            found.append(Damage(after.path, 0, 0, f"segment {which} before it is missing: {SAVES}"))
    return found


def _check_one(files: list[FileIndex]) -> None:
    """Raises RecordingError where the files are of two recordings."""
    abouts = [(file.path, file.about) for file in files if file.about]
    for path, about in abouts[1:]:
        if about.recording != abouts[0][1].recording:
            other = abouts[0][0].name
            raise RecordingError(f"{path}: of another recording than {other} beside it: give each a folder of its own")


def _channels(files: list[FileIndex]) -> dict[str, Channel]:
    counts: dict[str, int] = {}
    known: dict[str, tuple[str, str, str]] = {}
    for file in files:
        for number, channel in file.names.channels.items():
            known.setdefault(channel.topic, _names(channel, file.names.schemas))
            counts[channel.topic] = counts.get(channel.topic, 0) + file.counts.get(number, 0)
    return {topic: Channel(*texts, counts[topic]) for topic, texts in known.items()}


def _names(channel: ChannelRecord, schemas: dict[int, Schema]) -> tuple[str, str, str]:
    """Topic, name of the schema, encoding."""
    schema = schemas.get(channel.schema_id)
    return channel.topic, schema.name if schema else "", channel.message_encoding


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file into every error."""
    try:
        with guarded():
            yield
    except RecordingError as error:
        text = str(error)
        raise RecordingError(text if text.startswith(str(path)) else f"{path}: {text}") from None

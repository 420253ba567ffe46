"""Messages of a recording copied into a new MCAP file as they are, those of other writers too."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import lz4.frame  # noqa: F401  # mcap falls back to no compression, silently, without it
import msgspec
from mcap.writer import CompressionType, Writer

from perception.drives.index import OURS, FileIndex
from perception.drives.layout import ABOUT, CERTIFICATE, About, Certificate, Record, to_metadata
from perception.drives.recording import Recording
from perception.errors import RecordingError, reason

_PART = ".part"


def refuse_existing(out: Path, sources: Iterable[Path], *, force: bool) -> None:
    """Raises RecordingError where `out` is there and must not be replaced: it is a source, or `force` is False."""
    if out.exists() and any(out.samefile(source) for source in sources):
        raise RecordingError(f"{out}: the recording itself is not overwritten: give another name")
    if out.exists() and not force:
        raise RecordingError(f"{out}: it is there already: give another name or --force")


def copy_file(source: Path, path: Path) -> None:
    """Copy a file byte for byte, and sync it: whole under its name, or not there.

    Raises:
        RecordingError: it can't be read or written.
    """
    part = _part_of(path)
    try:
        with source.open("rb") as file, part.open("wb") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(path)
    except OSError as error:
        raise RecordingError(f"{path}: {reason(error)}") from None
    finally:
        with contextlib.suppress(OSError):  # on a disk that can't be written at all
            part.unlink(missing_ok=True)


class CopyWriter:
    """Writes an MCAP file with the schemas, channels and messages of others, one chunk a log time.

    A context manager: the file has its name once `finish` was called, and is not there where that did not happen.

    Args:
        path: of the new file; what is there is replaced at the end.
        like: whose profile, and whose metadata of other writers, it gets.
        about: what it says of itself; None for a file that perception did not write.

    Raises:
        RecordingError: it can't be made or written.
    """

    def __init__(self, path: Path, like: FileIndex, about: About | None) -> None:
        self.path, self._part = path, _part_of(path)
        self._channels: dict[str, int] = {}
        self._schemas: dict[bytes, int] = {}
        self._log_ns: int | None = None
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise RecordingError(f"{self._part}: {reason(error)}") from None
        self._writer = Writer(self._file, compression=CompressionType.LZ4)
        try:
            self._start(like, about)
        except OSError as error:
            self._discard()
            raise RecordingError(f"{self.path}: {reason(error)}") from None

    def write(self, record: Record, source: Recording) -> None:
        """Copy a message of `source`."""
        if record.log_ns != self._log_ns:
            self._writer.flush()
            self._log_ns = record.log_ns
        if record.topic not in self._channels:
            self._channels[record.topic] = self._register(record.topic, source)
        number = self._channels[record.topic]
        self._writer.add_message(number, record.log_ns, record.data, record.publish_ns, record.sequence)

    def finish(self, note: tuple[str, msgspec.Struct] | None = None, certificate: Certificate | None = None) -> None:
        """Close the file, sync it, and give it its name.

        Args:
            note: name and row of a metadata record that says what this copy is.
            certificate: what it should hold.
        """
        self._writer.flush()
        if note:
            self._writer.add_metadata(note[0], to_metadata(note[1]))
        if certificate:
            self._writer.add_metadata(CERTIFICATE, to_metadata(certificate))
        self._writer.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self.path)

    def __enter__(self) -> CopyWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error or not self._file.closed:
            self._discard()
        if isinstance(error, OSError):
            raise RecordingError(f"{self.path}: {reason(error)}") from None

    def _start(self, like: FileIndex, about: About | None) -> None:
        library = OURS if about else like.header.library if like.header.library != OURS else f"{OURS} (copied)"
        self._writer.start(like.header.profile, library)
        if about:
            self._writer.add_metadata(ABOUT, to_metadata(about))
        for name, texts in like.metadata.items():
            self._writer.add_metadata(name, texts)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk: it writes what waits in memory, and closes in any case
            self._file.close()
        with contextlib.suppress(OSError):  # on a disk that can't be written at all; why is told already
            self._part.unlink(missing_ok=True)

    def _register(self, topic: str, source: Recording) -> int:
        channel, schema = source.definition(topic)
        number = 0
        if schema:
            key = msgspec.msgpack.encode((schema.name, schema.encoding, schema.data))
            if key not in self._schemas:
                self._schemas[key] = self._writer.register_schema(schema.name, schema.encoding, schema.data)
            number = self._schemas[key]
        return self._writer.register_channel(topic, channel.message_encoding, number, channel.metadata)


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + _PART)

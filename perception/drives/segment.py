"""One MCAP file, written so that a crash costs at most the frame in work."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from pathlib import Path

import lz4.frame  # noqa: F401  # mcap falls back to no compression, silently, without it
from mcap.data_stream import RecordBuilder
from mcap.records import Channel as ChannelRecord
from mcap.records import Chunk, Schema
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer

from perception.drives.layout import ABOUT, ACTIVE, CERTIFICATE, About, Certificate, Channel, to_metadata
from perception.drives.schemas import schema_of
from perception.whole_file import sync

_CHUNK = 1 << 30  # chunks end where `flush` says so: at the end of a frame
_TABLE_EVERY_NS = 250_000_000
_LIBRARY = "perception"


class SegmentWriter:
    """Writes `NAME.mcap.active`, which becomes `NAME.mcap` once it is whole and closed.

    The file is locked (flock) while it is written, so that others can tell it from one that a crash left. Four
    times a second of the recording all schemas and channels are written again, in a chunk of their own without
    messages: whatever part of a damaged file is left can be read.

    Args:
        path: of the finished file, NAME.mcap; neither it nor the active one may be there.
        about: what the recording says of itself.

    Raises:
        OSError: it can't be made or, later, written; what was flushed before is kept. `flush`, `sync` and `close` may
            be called again then: nothing is lost, and the file ends where it ended before.
    """

    def __init__(self, path: Path, about: About) -> None:
        self.path, self.active = path, path.with_suffix(ACTIVE)
        if path.exists():
            raise FileExistsError(17, "it is there already", str(path))
        self._fd = os.open(self.active, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._spool = _Spool(self._fd)
        writer = Writer(self._spool, chunk_size=_CHUNK, compression=CompressionType.LZ4)  # type: ignore[arg-type]
        self._writer: Writer | None = writer  # None once the file's end is made, or will not be
        self._schemas: dict[str, Schema] = {}
        self._channels: dict[str, ChannelRecord] = {}
        self._log_ns = self._table_ns = 0
        self._is_fresh = self._is_named = False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            writer.start(profile="", library=_LIBRARY)
            writer.add_metadata(ABOUT, to_metadata(about))
            self._spool.drain()
        except OSError:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                self.active.unlink()
            raise

    @property
    def size(self) -> int:
        """Of the file [bytes]."""
        return self._spool.written

    def write(self, channel: Channel, data: bytes, log_ns: int, publish_ns: int, sequence: int) -> None:
        """Add a message; `flush` makes it safe."""
        assert self._writer is not None
        if channel.topic not in self._channels:
            self._channels[channel.topic] = self._register(self._writer, channel)
        self._log_ns = log_ns
        self._writer.add_message(
            channel_id=self._channels[channel.topic].id,
            log_time=max(0, log_ns),
            publish_time=max(0, publish_ns),
            sequence=sequence & 0xFFFFFFFF,
            data=data,
        )

    def flush(self) -> None:
        """End the chunk and hand it to the kernel: from here on a killed process loses nothing of it."""
        if self._writer:
            self._writer.flush()
        if self._channels and (self._is_fresh or abs(self._log_ns - self._table_ns) >= _TABLE_EVERY_NS):
            self._is_fresh, self._table_ns = False, self._log_ns
            self._spool.write(_table([*self._schemas.values()], [*self._channels.values()]))
        self._spool.drain()

    def sync(self) -> None:
        """Wait for the disk: from here on a power failure loses nothing of what was flushed.

        Raises OSError also where the file is not in its folder any more: what is written then is lost for everybody.
        """
        os.fdatasync(self._fd)
        if not self._is_named:
            sync(self.path.parent)
            self._is_named = True
        there, ours = os.stat(self.active), os.fstat(self._fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise FileNotFoundError(2, "another file took its place", str(self.active))

    def close(self, certificate: Certificate | None = None) -> None:
        """Finish the file, sync it, and give it its name: only a whole file ever has it."""
        if self._writer:
            self._writer.flush()
            if certificate:
                self._writer.add_metadata(CERTIFICATE, to_metadata(certificate))
            self._writer.finish()
            self._release()
        self._spool.drain()
        self.sync()
        os.rename(self.active, self.path)
        with contextlib.suppress(OSError):  # it is synced, and its descriptor gone all the same
            os.close(self._fd)
        with contextlib.suppress(OSError):  # the file is whole, and perhaps only its new name is not on the disk yet
            sync(self.path.parent)

    def abandon(self) -> None:
        """Let the file go as it is: it keeps the name of an unfinished one."""
        self._release()
        with contextlib.suppress(OSError):  # its descriptor is gone all the same
            os.close(self._fd)

    def _release(self) -> None:
        """Let go of what only writing needs, the index of all chunks above all: many are kept that are closed."""
        self._writer = None
        self._schemas.clear()
        self._channels.clear()

    def _register(self, writer: Writer, channel: Channel) -> ChannelRecord:
        name = channel.schema
        if name and name not in self._schemas:
            encoding, data = schema_of(name)
            schema_id = writer.register_schema(name, encoding, data)
            self._schemas[name] = Schema(schema_id, data, encoding, name)
        schema_id = self._schemas[name].id if name else 0
        channel_id = writer.register_channel(channel.topic, channel.encoding, schema_id)
        self._is_fresh = True
        return ChannelRecord(channel_id, channel.topic, channel.encoding, {}, schema_id)


class _Spool:
    """What mcap's writer takes for a file: keeps the bytes until they are in the file, all or none of them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parts: list[bytes] = []
        self._end = 0
        self.written = 0

    def write(self, data: bytes) -> int:
        if data:
            self._parts.append(data)
            self._end += len(data)
        return len(data)

    def tell(self) -> int:
        return self._end

    def flush(self) -> None:
        """Nothing: `drain` writes, where a failure can be met."""

    def drain(self) -> None:
        """Raises OSError where not everything could be written: then none of it is in the file, and all still here."""
        at = self.written
        try:
            for part in self._parts:
                view = memoryview(part)
                while view:
                    count = os.pwrite(self._fd, view, at)
                    at, view = at + count, view[count:]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.written)
            raise
        self.written = at
        self._parts.clear()


def is_ours(path: Path) -> bool:
    """Whether a file begins as those do that SegmentWriter writes. Raises OSError where it can't be read."""
    with path.open("rb") as file:
        head = file.read(64)
    name = _LIBRARY.encode()
    return head.startswith(MCAP0_MAGIC) and head[17:].startswith(bytes(4) + len(name).to_bytes(4, "little") + name)


def is_in_work(path: Path) -> bool:
    """Whether a living process writes this active file; False also where it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _table(schemas: list[Schema], channels: list[ChannelRecord]) -> bytes:
    """All schemas and channels as a chunk record without messages, which the checksum of the chunk covers."""
    builder = RecordBuilder()
    for record in (*schemas, *channels):
        record.write(builder)
    data = builder.end()
    times = {"message_start_time": 0, "message_end_time": 0}
    Chunk(compression="", data=data, uncompressed_crc=zlib.crc32(data), uncompressed_size=len(data), **times).write(
        builder
    )
    return builder.end()

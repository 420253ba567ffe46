"""One run over several processes: the file by which a node that was killed goes on with its run's ids and numbers.

What the file says of numbers is ahead of what was sent, by a reserve, so that what was given after the last write is
not given again. The pipeline's thread hands over a value and never waits for the disk, unless the reserve is used up.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from perception.folders import check_private, state_folder
from perception.lock_file import hold
from perception.propagation.continuation import State, checked
from perception.types import Scene, TrackState

log = logging.getLogger(__name__)

VERSION = 1
RESERVE = 1000  # ids, events, and messages of each topic
EVERY_NS = 500_000_000  # between two writes [ns]
MOST_STARTS = 3  # from one file without a frame in between: it may be what ends them
LONGEST = 1 << 20  # bytes of a file
_MAGIC = b"PCNT"
_FRONT = struct.Struct("<4sII")  # magic, CRC-32 of the rest, its size
_LAST_WORD_S = 1.0  # how long close() waits for a write
_NEWS = frozenset((TrackState.CONFIRMED, TrackState.ENDED))  # what a restart must not take back
_PATIENCE_S = 0.25  # how long a frame waits for the disk once the reserve is used up
Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class About(msgspec.Struct, frozen=True):
    """What must be the same for a run to go on."""

    boot_id: str
    camera: str
    source: str  # digest of where the frames come from
    model: str
    calibration: str
    tracking: str  # kind of the propagator


class Numbers(msgspec.Struct, frozen=True):
    """The highest number given of each series that must not begin anew."""

    seqs: dict[str, Number] = {}  # of messages, by topic
    events: Number = 0
    health: Number = 0


class Checkpoint(msgspec.Struct, frozen=True):
    """What the file holds."""

    version: int
    about: About
    run: Annotated[str, msgspec.Meta(pattern="^[0-9a-f-]{36}$")]
    starts: Number  # of processes since the last frame
    numbers: Numbers
    identities: State

    def ahead(self) -> Checkpoint:
        """The same with a reserve on every number."""
        numbers, identities = self.numbers, self.identities
        seqs = {topic: seq + RESERVE for topic, seq in numbers.seqs.items()}
        return msgspec.structs.replace(
            self,
            numbers=Numbers(seqs, numbers.events + RESERVE, numbers.health + RESERVE),
            identities=msgspec.structs.replace(identities, next_id=identities.next_id + RESERVE),
        )


def encode(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as bytes, with a checksum."""
    packed = zlib.compress(msgspec.msgpack.encode(checkpoint), 1)
    return _FRONT.pack(_MAGIC, zlib.crc32(packed), len(packed)) + packed


def decode(data: bytes) -> Checkpoint:
    """The checkpoint of these bytes, all of it. Raises ValueError, saying why, for anything but what `encode` made."""
    if len(data) < _FRONT.size or data[:4] != _MAGIC:
        raise ValueError("no checkpoint")
    _, crc, size = _FRONT.unpack_from(data)
    packed = data[_FRONT.size :]
    if len(packed) != size or zlib.crc32(packed) != crc:
        raise ValueError("damaged")
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(packed, LONGEST)
        if not unpack.eof:
            raise ValueError("too large")
        version = msgspec.msgpack.decode(content, type=_Versioned).version
        if version != VERSION:
            raise ValueError(f"version {version}, this node writes {VERSION}")
        checkpoint = msgspec.msgpack.decode(content, type=Checkpoint)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not of this form: {error}") from None
    checked(checkpoint.identities)
    return checkpoint


class _Versioned(msgspec.Struct):
    version: int


def usable(data: bytes, about: About, now_ns: int, within_ns: int) -> Checkpoint:
    """The checkpoint of these bytes, if a node that is `about` may go on from it now; raises ValueError if not."""
    checkpoint = decode(data)
    for field in About.__struct_fields__:
        before, now = getattr(checkpoint.about, field), getattr(about, field)
        if before != now:
            raise ValueError(f"another {field}: {before} then, {now} now")
    gap_ns = now_ns - checkpoint.identities.stamp_ns
    if not 0 <= gap_ns <= within_ns:
        raise ValueError(f"its last frame is {gap_ns / 1e9:.1f} s old, tracking.continue_for_s is {within_ns / 1e9:g}")
    if checkpoint.starts >= MOST_STARTS:
        raise ValueError(f"{checkpoint.starts} starts from it ended before a frame was through")
    return checkpoint


def place(camera: str, endpoints: tuple[str, ...]) -> Path | None:
    """The file of a camera's node on these endpoints; None where the system chooses a port: nobody finds it again."""
    if any(endpoint.endswith(":*") for endpoint in endpoints):
        return None
    named = [f"ipc://{os.path.abspath(e[6:])}" if e.startswith("ipc://") else e for e in endpoints]
    return state_folder() / f"{camera}-{digest(' '.join(named))}.run"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class CheckpointFile:
    """The checkpoint of one node, which alone reads and writes it while it lives.

    Attributes:
        found: what it may go on from, None where a run begins.
        refused: why not from what the file holds; empty where it holds nothing, or is gone on from.
    """

    def __init__(self, path: Path, about: About, within_ns: int) -> None:
        """Raises OSError where the folder is not this user's alone or another process holds the file."""
        self.path, self.about = path, about
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path.parent)
        self._lock = hold(path.with_suffix(".lock"))
        self.refused = ""
        self.found = self._read(within_ns)

    def _read(self, within_ns: int) -> Checkpoint | None:
        try:
            with open(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                data = file.read(LONGEST + 1)
            return usable(data, self.about, time.monotonic_ns(), within_ns)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.refused = str(error)
            log.info("a new run: %s is not continued: %s", self.path, error)
            return None

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file as a whole. Not synchronised: what a power failure takes is of another boot anyway.

        Raises OSError.
        """
        new = self.path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(encode(checkpoint))
        os.replace(new, self.path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        """Let another process have it. Twice is fine."""
        self._lock.close()


class Continuity:
    """Keeps the file of a running node up to date, from a thread of its own.

    Args:
        file: where to.
        run: UUID.
        remember: the identities after the frame of this stamp [ns].
        next_id: the next track's id.
        numbers: the numbers given so far.
    """

    def __init__(
        self,
        file: CheckpointFile,
        run: str,
        remember: Callable[[int], State],
        next_id: Callable[[], int],
        numbers: Callable[[], Numbers],
    ) -> None:
        self._file, self._run = file, run
        self._remember, self._next_id, self._numbers = remember, next_id, numbers
        self._changed = threading.Condition()  # guards what the two threads share, down to _is_broken
        self._pending: tuple[Checkpoint, int] | None = None  # and the frames so far
        self._given = self._safe = (0, 0, 0)  # next id, events and frames: so far, and reserved by the file
        self._ended = self._is_broken = False
        self._frames, self._stamp_ns, self._next_ns = 0, 0, 0
        self._claim()
        self._thread = threading.Thread(target=self._write_all, name="continuity", daemon=True)
        self._thread.start()

    def note(self, scene: Scene) -> None:
        """Take a frame in before it is published; by the pipeline's thread."""
        self._frames, self._stamp_ns = self._frames + 1, scene.stamp_ns
        next_id = self._next_id() + 1  # a prompt may take one before the next frame
        given = (next_id, self._numbers().events + len(scene.events), self._frames)
        is_news = any(event.state in _NEWS for event in scene.events)
        with self._changed:
            self._given = given
            left = min(safe - so_far for safe, so_far in zip(self._safe, given, strict=True))
            must_wait = left < 0 and not self._is_broken
        if is_news or left < RESERVE // 2 or scene.stamp_ns >= self._next_ns:
            self._next_ns = scene.stamp_ns + EVERY_NS
            self.save(must_wait)

    def save(self, must_wait: bool = False) -> None:
        """Hand over what is so since the last frame noted; by the pipeline's thread."""
        checkpoint = self._made()
        with self._changed:
            self._pending = checkpoint, self._frames
            self._changed.notify_all()
            # what is beyond the reserve must not be published: give the disk a moment
            if must_wait and not self._changed.wait_for(self._is_reserved, _PATIENCE_S):
                self._give_up("the disk does not follow")

    def close(self) -> None:
        """Leave the exact numbers, for nothing more will be sent; then let the file go. Twice is fine."""
        with self._changed:
            was_ended, self._ended = self._ended, True
            self._changed.notify_all()
        if was_ended:
            return
        self._thread.join(_LAST_WORD_S)
        if self._frames and not self._is_broken and not self._thread.is_alive():
            self._write(self._made())
        self._file.close()

    def _claim(self) -> None:
        """Say in the file that a process has gone on from it, before that says anything itself."""
        found = self._file.found
        if found is not None:
            health = found.numbers.health + RESERVE
            numbers = msgspec.structs.replace(found.numbers, health=health)
            self._write(msgspec.structs.replace(found, starts=found.starts + 1, numbers=numbers))

    def _made(self) -> Checkpoint:
        numbers, identities = self._numbers(), self._remember(self._stamp_ns)
        return Checkpoint(VERSION, self._file.about, self._run, 0, numbers, identities)

    def _is_reserved(self) -> bool:
        return all(safe >= given for safe, given in zip(self._safe, self._given, strict=True))

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._pending is not None)
                pending, self._pending = self._pending, None
                if self._ended or pending is None:
                    return
            checkpoint, frames = pending
            ahead = checkpoint.ahead()
            is_written = self._write(ahead)
            with self._changed:
                if is_written:
                    self._safe = (ahead.identities.next_id, ahead.numbers.events, frames + RESERVE)
                    self._is_broken = not self._is_reserved()
                if self._is_broken:  # given up in the meantime, or too late
                    self._file.remove()
                self._changed.notify_all()

    def _write(self, checkpoint: Checkpoint) -> bool:
        try:
            self._file.write(checkpoint)
        except OSError as error:
            with self._changed:
                self._give_up(error.strerror or str(error))
            return False
        return True

    def _give_up(self, why: str) -> None:
        """Until a write succeeds; called with `_changed` held."""
        if not self._is_broken:
            log.warning("this run can't be continued after a restart: %s: %s", self._file.path, why)
        self._is_broken = True
        self._file.remove()

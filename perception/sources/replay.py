"""A recorded source: every frame, in order, the same on every run."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Iterator

from perception.errors import SourceError
from perception.protocols import SourceInfo, SourceStatus
from perception.sources.pace import Pace
from perception.sources.shots import Reader, Shot
from perception.sources.stop import Stop
from perception.types import Frame

log = logging.getLogger(__name__)

_SLICE_S = 0.05
_JOIN_S = 2.0
_DEPTH = 4  # frames decoded ahead


class ReplaySource:
    """All shots of a reader, decoded ahead in one thread; nothing is skipped, whoever is slow.

    `seq` is the position in the drive (a gap is a broken shot), stamps count from the drive's start. With
    `realtime` a frame is not handed over before its stamp, `speed` times as fast as recorded; with `loop` the drive
    is repeated for ever, seq and stamps going on. `pace` pauses it, steps it and changes its speed, from any thread.
    Errors of the reader are raised in the iterating thread, after the frames before them.
    """

    def __init__(
        self, reader: Reader, *, camera: str, realtime: bool = False, loop: bool = False, speed: float = 1.0
    ) -> None:
        """Raises SourceError for a speed that is not from 0.1 to 10."""
        self.pace = Pace(speed, realtime=realtime)
        self._reader = reader
        self._camera = camera
        self._loop = loop
        self._stop = Stop()
        self._ahead: queue.Queue[Frame | SourceError | None] = queue.Queue(_DEPTH)
        self._thread: threading.Thread | None = None
        self._state, self._reason = "starting", ""
        self._captured = self._broken = 0
        self._identity: str | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Start decoding now. Raises SourceError when it was iterated before."""
        if self._thread is not None:
            raise SourceError(f"{self._reader.name}: this source is already being read: open another one")
        self._thread = threading.Thread(target=self._decode, name=f"replay-{self._camera}", daemon=True)
        self._thread.start()
        # A daemon thread that is inside OpenCV when the interpreter goes away aborts the process.
        atexit.register(self._leave, self._thread)
        return self._frames(self._thread)

    def info(self) -> SourceInfo:
        """Known before the first frame; the first call reads the whole drive once, to hash it."""
        if self._identity is None:
            self._identity = self._reader.identity()
        reader = self._reader
        return SourceInfo(reader.width, reader.height, reader.fps, "drive", self._identity)

    def status(self) -> SourceStatus:
        return SourceStatus(self._state, self._reason, self._captured, 0, self._broken, 0)

    def close(self) -> None:
        """End the iteration soon, also from another thread or a signal handler. Twice is fine."""
        self._stop.set()

    def _frames(self, thread: threading.Thread) -> Iterator[Frame]:
        try:
            while (frame := self._next()) is not None:
                self._state = "running"
                if self.pace.wait(frame.stamp_ns, self._stop):
                    return
                yield frame
        finally:
            self._state, self._reason = "ended", self._reason or "closed"
            self._leave(thread)
            atexit.unregister(self._leave)

    def _leave(self, thread: threading.Thread) -> None:
        self._stop.set()
        thread.join(_JOIN_S)

    def _next(self) -> Frame | None:
        """The next frame; None at the end and when closed."""
        while not self._stop.is_set:
            try:
                item = self._ahead.get(timeout=_SLICE_S)  # in slices: close() may not touch the queue's lock
            except queue.Empty:
                continue
            if isinstance(item, SourceError):
                self._reason = str(item)
                raise item
            if item is None:
                self._reason = "end of the drive"
            return item
        return None

    def _decode(self) -> None:
        end: Frame | SourceError | None = None
        try:
            self._decode_passes()
        except SourceError as error:
            end = error
        except Exception as error:  # handed over to the thread that iterates
            end = SourceError(f"{self._reader.name}: can't be read: {type(error).__name__}: {error}")
            end.__cause__ = error
        self._put(end)

    def _decode_passes(self) -> None:
        seq, begin_ns = 0, 0
        while True:
            first = last = None
            for shot in self._reader.shots():
                if not self._pass_on(shot, seq, begin_ns):
                    return
                first, last = first or shot, shot
            if first is None or last is None or not self._loop:
                return
            interval_ns = round(1e9 / (self._reader.fps or 30.0))
            seq, begin_ns = seq + last.index + 1 - first.index, begin_ns + last.stamp_ns + interval_ns - first.stamp_ns

    def _pass_on(self, shot: Shot, seq: int, begin_ns: int) -> bool:
        """Queue a shot as a frame; False when the source was closed."""
        self._captured += 1
        if shot.image is not None:
            return self._put(Frame(seq + shot.index, begin_ns + shot.stamp_ns, self._camera, shot.image))
        if self._broken == 0:
            log.warning(
                "camera %s: %s: frame %d is broken: left out (--verbose: why)",
                self._camera,
                self._reader.name,
                shot.index,
            )
        self._broken += 1
        return not self._stop.is_set

    def _put(self, item: Frame | SourceError | None) -> bool:
        while not self._stop.is_set:
            try:
                self._ahead.put(item, timeout=_SLICE_S)
            except queue.Full:
                continue
            return True
        return False

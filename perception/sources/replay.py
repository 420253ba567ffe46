"""A recorded source: every frame, in order, the same on every run."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from perception.errors import SourceError
from perception.protocols import Playing, SourceInfo, SourceStatus
from perception.sources.pace import Pace
from perception.sources.shots import Reader, Shot
from perception.sources.span import SpanReader
from perception.sources.stop import Stop
from perception.types import Frame

log = logging.getLogger(__name__)

_SLICE_S = 0.05
_JOIN_S = 2.0
_DEPTH = 4  # frames decoded ahead
_JUMP_NS = 3_000_000_000  # between the stamps before and after a jump: propagators end what they knew after 2 s
_BACK_NS = 1_000_000_000  # behind the end, the last frame is looked for so long before, then twice as long, and so on
_SHORTEST_S = 0.001  # that is left when somebody moves to the very end


class _Ahead(NamedTuple):
    """A frame that is decoded, and where it is from."""

    frame: Frame
    drive_ns: int  # its place in the drive [ns]
    jump: int  # how often somebody had moved the drive by then


class ReplaySource:
    """All shots of a reader, decoded ahead in one thread; nothing is skipped, whoever is slow.

    `seq` is the position in the drive (a gap is a broken shot), stamps count from the drive's start. With
    `realtime` a frame is not handed over before its stamp, `speed` times as fast as recorded; with `loop` the drive
    is repeated for ever, seq and stamps going on. `pace` pauses it, steps it and changes its speed, from any thread;
    `play` does so too, and moves it: seq and stamps then go on rising, three seconds later, so that tracks end.
    With `holds` it does not end with the drive, but waits there to be moved or closed.
    Errors of the reader are raised in the iterating thread, after the frames before them.
    """

    def __init__(
        self, reader: Reader, *, camera: str, realtime: bool = False, loop: bool = False, speed: float = 1.0
    ) -> None:
        """Raises SourceError for a speed that is not from 0.1 to 10."""
        self.pace = Pace(speed, realtime=realtime)
        self.holds = False
        self._reader = reader
        self._camera = camera
        self._loop = loop
        self._stop = Stop()
        self._ahead: queue.Queue[_Ahead | SourceError | None] = queue.Queue(_DEPTH)
        self._begin_ns = reader.begin_ns if isinstance(reader, SpanReader) else 0
        self._length_ns: int | None = None  # asked of the reader once
        self._moves = threading.Lock()
        self._wanted_ns, self._jump = self._begin_ns, 0  # where it was moved to last, and how often
        self._position_ns, self._is_at_end = self._begin_ns, False
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

    def play(
        self, *, pause: bool | None = None, step: bool = False, seek_s: float | None = None, speed: float | None = None
    ) -> Playing:
        """Do these, in any thread, and tell how the drive is played then.

        Raises:
            SourceError: a speed that is not from 0.1 to 10, or a time before the drive or behind its end.
        """
        if speed is not None:
            self.pace.speed = speed
        if seek_s is not None:
            self._seek(seek_s)
        if pause is not None:
            (self.pace.pause if pause else self.pace.resume)()
        if step:
            self.pace.step()
        end_ns = self._end_ns()
        return Playing(
            is_paused=self.pace.is_paused,
            speed=self.pace.speed,
            position_s=self._position_ns / 1e9,
            begin_s=self._begin_ns / 1e9,
            end_s=end_ns / 1e9 if end_ns else None,
            is_at_end=self._is_at_end,
        )

    def _seek(self, to_s: float) -> None:
        begin_s, end_ns = self._begin_ns / 1e9, self._end_ns()
        if not begin_s <= to_s <= (end_ns / 1e9 if end_ns else 1e9):
            end = f" to {end_ns / 1e9:g}" if end_ns else ""
            raise SourceError(f"{self._reader.name}: {to_s:g} s is none of it: from {begin_s:g}{end}")
        last_s = max(begin_s, end_ns / 1e9 - max(_SHORTEST_S, 1 / (self._reader.fps or 30))) if end_ns else to_s
        with self._moves:
            self._wanted_ns, self._jump = round(min(to_s, last_s) * 1e9), self._jump + 1

    def _end_ns(self) -> int:
        if self._length_ns is None:
            self._length_ns = self._reader.length_ns()
        return self._length_ns

    def _is_left(self, jump: int) -> bool:
        """Whether it was closed, or moved away from the frames of this jump."""
        return self._stop.is_set or self._jump != jump

    def _frames(self, thread: threading.Thread) -> Iterator[Frame]:
        jump = 0
        try:
            while (ahead := self._next()) is not None:
                self._state, self._is_at_end = "running", False
                if ahead.jump != jump:
                    jump = ahead.jump
                    self.pace.jump()
                if self.pace.wait(ahead.frame.stamp_ns, _Moved(self, jump)):
                    continue
                self._position_ns = ahead.drive_ns
                yield ahead.frame
        finally:
            self._state, self._reason = "ended", self._reason or "closed"
            self._leave(thread)
            atexit.unregister(self._leave)

    def _leave(self, thread: threading.Thread) -> None:
        self._stop.set()
        thread.join(_JOIN_S)

    def _next(self) -> _Ahead | None:
        """The next frame; None at the end and when closed."""
        while not self._stop.is_set:
            try:
                item = self._ahead.get(timeout=_SLICE_S)  # in slices: close() may not touch the queue's lock
            except queue.Empty:
                continue
            if isinstance(item, SourceError):
                self._reason = str(item)
                raise item
            if item is None and self.holds:
                self._is_at_end = True
                continue
            if item is None:
                self._reason = "end of the drive"
            elif item.jump != self._jump:  # decoded before it was moved
                continue
            return item
        return None

    def _decode(self) -> None:
        end: SourceError | None = None
        try:
            self._decode_passes()
        except SourceError as error:
            end = error
        except Exception as error:  # handed over to the thread that iterates
            end = SourceError(f"{self._reader.name}: can't be read: {type(error).__name__}: {error}")
            end.__cause__ = error
        self._put(end)

    def _decode_passes(self) -> None:
        """Pass after pass: a later one begins at the drive's begin, or where somebody moved it to."""
        offset, last = (0, 0), None  # of seq and stamp [ns] against the drive's own; those of the last shot
        at_ns, jump, gap_ns = 0, 0, 0
        while True:
            is_first = True
            for shot in self._shots(at_ns, jump):
                if is_first and last:
                    offset = (last[0] + 1 - shot.index, last[1] + gap_ns - shot.stamp_ns)
                is_first = False
                if not self._pass_on(shot, offset, jump):
                    break
                last = (shot.index + offset[0], shot.stamp_ns + offset[1])
            if self._jump == jump and (is_first or not self._loop) and not self._is_moved_on(jump):
                return
            if self._stop.is_set:
                return
            with self._moves:
                is_moved, jump = self._jump != jump, self._jump
                at_ns = self._wanted_ns if is_moved else 0
            gap_ns = _JUMP_NS if is_moved else round(1e9 / (self._reader.fps or 30.0))

    def _shots(self, at_ns: int, jump: int) -> Iterator[Shot]:
        """From there on; behind the last frame that one, since it is shown until the drive ends."""
        is_any, back_ns = False, _BACK_NS
        for shot in self._reader.shots(at_ns):
            if shot.stamp_ns >= at_ns:
                is_any = True
                yield shot
        from_ns = at_ns
        while not is_any and from_ns > self._begin_ns and not self._is_left(jump):
            from_ns, back_ns = max(self._begin_ns, at_ns - back_ns), 2 * back_ns
            last = self._last(from_ns, jump)
            if last is not None:
                yield last
                return

    def _last(self, from_ns: int, jump: int) -> Shot | None:
        """The last whole one; None where there is none from there on, and once it was moved."""
        last = None
        for shot in self._reader.shots(from_ns):
            if self._is_left(jump):
                return None
            last = last if shot.image is None else shot
        return last

    def _is_moved_on(self, jump: int) -> bool:
        """At the end of the drive: whether it goes on elsewhere, which is waited for where it holds."""
        if not self.holds:
            return False
        self._put(None)
        while self._jump == jump and not self._stop.is_set:
            self._stop.sleep(_SLICE_S)
        return not self._stop.is_set

    def _pass_on(self, shot: Shot, offset: tuple[int, int], jump: int) -> bool:
        """Queue a shot as a frame; False when the source was closed or moved."""
        self._captured += 1
        if shot.image is not None:
            frame = Frame(shot.index + offset[0], shot.stamp_ns + offset[1], self._camera, shot.image)
            return self._put(_Ahead(frame, shot.stamp_ns, jump))
        if self._broken == 0:
            log.warning(
                "camera %s: %s: frame %d is broken: left out (--verbose: why)",
                self._camera,
                self._reader.name,
                shot.index,
            )
        self._broken += 1
        return not self._stop.is_set and self._jump == jump

    def _put(self, item: _Ahead | SourceError | None) -> bool:
        while not (self._stop.is_set or (isinstance(item, _Ahead) and item.jump != self._jump)):
            try:
                self._ahead.put(item, timeout=_SLICE_S)
            except queue.Full:
                continue
            return True
        return False


@dataclass(frozen=True, slots=True)
class _Moved:
    """Set once a source was closed, or moved away from what is waited for."""

    source: ReplaySource
    jump: int

    @property
    def is_set(self) -> bool:
        return self.source._is_left(self.jump)

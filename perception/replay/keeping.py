"""The result of a replay on disk: a recording without images, that lacks nothing and is only there when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from perception.drives.layout import About, Decision
from perception.drives.places import require_writable
from perception.errors import RecordingError
from perception.replay.follow import Followed, Follower
from perception.sinks.recorder import Recorder, RecordSettings

STATE_EVERY_NS = 5_000_000_000  # [ns]


def require_place(folder: Path) -> None:
    """To be asked before long work. Raises RecordingError where a result can't be written, or something is there."""
    if folder.exists():
        raise RecordingError(f"{folder}: is there already: name another result, or remove it first")
    require_writable(folder)


class Keeping:
    """Writes a result.

    Args:
        folder: of the result, which must not be there yet.

    Raises:
        RecordingError: it is there, or can't be written.
    """

    def __init__(self, folder: Path, about: About) -> None:
        require_place(folder)
        self._recorder = Recorder(folder, about, RecordSettings(frames="none", masks=False, waits=True))
        self._next_state_ns = 0
        self._reason, self._is_empty = "stopped before the end", True

    def note(self, followed: Followed, follower: Follower) -> None:
        """One frame, with its decision and the answers given after it."""
        frame, recorder, self._is_empty = followed.planned.frame, self._recorder, False
        recorder.sent(followed.messages, frame.stamp_ns)
        recorder.decided(followed.planned.decision)
        for call in followed.replies:
            recorder.called(call)
        if frame.stamp_ns >= self._next_state_ns:
            self._next_state_ns = frame.stamp_ns + STATE_EVERY_NS
            recorder.state(follower.state_after(frame))

    def finish(self, left_out: Iterable[Decision]) -> None:
        """All frames are through; what became of the others is noted too."""
        for decision in left_out:
            self._recorder.decided(decision)
        self._reason = "the drive ended"

    def close(self) -> None:
        """Raises RecordingError where the result is not whole: one that lacks something would be taken for another."""
        self._recorder.close(self._reason)
        if self._is_empty:  # nothing was replayed: the next try finds nothing in its way
            shutil.rmtree(self._recorder.folder, ignore_errors=True)
            return
        certificate = self._recorder.certificate
        if certificate is None or not certificate.is_complete:
            why = self._recorder.stats().stopped or "its log says why"
            raise RecordingError(f"{self._recorder.folder}: the result is not whole: {why}")

"""Whether a recording has its end: one that was not closed in order holds only a part of its drive."""

from __future__ import annotations

import logging

from perception.drives import layout
from perception.drives.layout import ACTIVE
from perception.drives.recording import RECOVERED, Recording
from perception.drives.segment import is_in_work
from perception.errors import RecordingError

log = logging.getLogger(__name__)

NOT_FINISHED = "not finished"
NO_CERTIFICATE = "no certificate: its last segment is missing"


def lacks_end(recording: Recording) -> str:
    """NOT_FINISHED or NO_CERTIFICATE; "" where it was closed in order, or recovered since."""
    if not recording.is_finished:
        return NOT_FINISHED
    is_cut_off = recording.about and recording.certificate is None and RECOVERED not in recording.metadata
    return NO_CERTIFICATE if is_cut_off else ""


def warn_unclosed(recording: Recording) -> None:
    """One warning where a recording lacks its end, for those who take what is there; none while it is written."""
    if (lack := lacks_end(recording)) and not _is_written_now(recording):
        fix = ": `perception drive recover` makes a whole recording of them" if lack == NOT_FINISHED else ""
        log.warning("%s: %s%s", recording.path, _told(recording, lack), fix)


def require_closed(recording: Recording) -> None:
    """Raises RecordingError where a recording lacks its end, or is being written."""
    lack = lacks_end(recording)
    if lack and _is_written_now(recording):
        raise RecordingError(f"{recording.path}: it is being written now: wait until its node has stopped")
    if lack:
        raise RecordingError(f"{recording.path}: {_told(recording, lack)}: a part of a drive is no reference")


def _is_written_now(recording: Recording) -> bool:
    beside = recording.path.glob(f"*{ACTIVE}") if recording.path.is_dir() else ()  # one may be too new to be read
    return any(is_in_work(path) for path in (*recording.segments, *beside))


def _told(recording: Recording, lack: str) -> str:
    """What is missing, and what is there."""
    why = f"{lack}: a crash left it, or it was cut off" if lack == NOT_FINISHED else lack
    channels, camera = recording.channels, recording.about.camera if recording.about else ""
    frames = next((channels[t] for t in (layout.decisions(camera), layout.image(camera)) if t in channels), None)
    count = f"{frames.count} frames" if frames else f"{sum(c.count or 0 for c in channels.values())} messages"
    return f"{why}: {count}, {(recording.end_ns - recording.begin_ns) / 1e9:.1f} s are there"

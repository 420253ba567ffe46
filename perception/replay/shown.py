"""A drive that can be shown: as recorded where it has masks, else with masks that the node makes of it now."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perception.build import check_launch
from perception.config import Launch
from perception.conversion.reading import open_drive
from perception.conversion.recorded import RecordWishes, write_recording
from perception.drives.ending import warn_unclosed
from perception.errors import RecordingError
from perception.replay.drive import is_recording
from perception.replay.unit import Wishes, replay_drive

EVERYTHING = ("panoptic",)
"""The topics of a drive that has none: all classes and all things."""
_BEFORE_S = 2.0  # of a part, so that its tracks are confirmed where it begins
_NO_MASKS = frozenset({"health", "events", "tracks", "image"})


@dataclass(frozen=True, slots=True)
class Shown:
    """A recording with masks.

    Args:
        path: it.
        frames: the recording that has its images; None where it has them itself.
        begin_s: of its first frame, in the drive that was asked for [s].
    """

    path: Path
    frames: Path | None = None
    begin_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a drive is to be shown.

    Args:
        begin_s, end_s: part of it, since its first frame [s].
        launch: how masks are made where there are none.
        anew: make them also where the drive holds some.
        plain: no masks are needed.
    """

    begin_s: float
    end_s: float | None
    launch: Launch
    anew: bool = False
    plain: bool = False


@contextmanager
def shown(drive: str, wanted: Wanted, progress: Callable[[str, int, int], None]) -> Iterator[Shown]:
    """The drive, or a part of it, ready to be shown; what is made for that goes with the block.

    Args:
        drive: a recording, or anything recorded that a source can be.

    Raises:
        PerceptionError: it can't be read, or is live.
    """
    if wanted.end_s is not None and wanted.end_s <= wanted.begin_s:
        raise RecordingError(f"from {wanted.begin_s:g} to {wanted.end_s:g} s is empty: give an end after the begin")
    ours = is_recording(Path(drive))
    opened = open_drive(Path(drive)) if ours else None
    if opened and (wanted.plain or (set(opened.topics) - _NO_MASKS and not wanted.anew)):
        warn_unclosed(opened.recording)
        yield Shown(Path(drive))
        return
    if not wanted.plain:
        check_launch(wanted.launch)  # a wrong topic or model is said before the drive is read
    begin_s = max(0.0, wanted.begin_s - _BEFORE_S)
    with tempfile.TemporaryDirectory(prefix="perception-") as folder:
        frames, result = Path(drive), Path(folder) / "masks"
        if not ours:
            frames = Path(folder) / "frames.mcap"
            wishes = RecordWishes(begin_s=begin_s, end_s=wanted.end_s)
            write_recording(drive, frames, wishes, progress=lambda _, n, total: progress("reading", n, total))
        if wanted.plain:
            yield Shown(frames, None, begin_s)
            return
        part = Wishes("exact", begin_s, wanted.end_s) if ours else Wishes("exact")
        replay_drive(
            str(frames), wanted.launch, result, part, progress=lambda n, total: progress("masks", n, total or n)
        )
        yield Shown(result, frames, begin_s)

"""A recording that a tool writes: whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from perception.conversion.outputs import unfinished
from perception.drives.block import Block
from perception.drives.disk import DiskGuard
from perception.drives.layout import ACTIVE, SUFFIX, About
from perception.drives.segments import RecordingWriter, SegmentLimits
from perception.errors import RecordingError

KINDS = frozenset({SUFFIX, Path(ACTIVE).suffix})
_LEAST_FREE = 1 << 30  # of the disk, or a tenth of it where that is less [bytes]


class Written:
    """A recording that is being written."""

    def __init__(self, writer: RecordingWriter) -> None:
        self._writer = writer

    def write(self, block: Block) -> None:
        """Raises RecordingError where the disk takes no more."""
        self._writer.write(block)
        if self._writer.stopped:
            raise RecordingError(f"{self._writer.folder}: {self._writer.stopped}")


@contextlib.contextmanager
def written_recording(out: Path, about: About, force: bool, reason: str) -> Iterator[Written]:
    """A recording at `out`: one file where that ends in .mcap, else a folder of segments.

    Args:
        reason: why it ends, for its certificate.

    Raises:
        RecordingError: `out` is there already, or can't be written.
        Stopped: Ctrl-C; what was written is kept beside it.
    """
    is_file = out.suffix == SUFFIX
    with unfinished(out, force, KINDS) as part:
        folder = part.with_suffix(".segments") if is_file else part
        shutil.rmtree(folder, ignore_errors=True)
        limits = SegmentLimits(math.inf, 1 << 62) if is_file else None
        writer = RecordingWriter(folder, about, DiskGuard(folder.parent, "stop", _LEAST_FREE), limits, masks=False)
        try:
            yield Written(writer)
        except BaseException as error:
            writer.close("stopped by Ctrl-C" if isinstance(error, KeyboardInterrupt) else "failed")
            _settle(folder, part)
            raise
        is_whole = writer.close(reason) is not None
        _settle(folder, part)
        if not is_whole:
            raise RecordingError(f"{out}: {writer.stopped}")


def _settle(folder: Path, part: Path) -> None:
    """Make one file of a folder with one segment, where it is to be one."""
    if folder == part:
        return
    if (segment := folder / f"0000{SUFFIX}").exists():
        segment.replace(part)
    shutil.rmtree(folder, ignore_errors=True)

"""Keeps a disk from filling up with recordings, and tells of recordings that a crash left open."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from perception.drives.layout import ACTIVE, SUFFIX
from perception.drives.segment import is_in_work, is_ours

log = logging.getLogger(__name__)

WhenFull = Literal["stop", "delete-oldest"]
KEPT = "KEEP"
"""A file of this name in a recording's folder saves it from being deleted."""
NEWEST_KEPT = 5
CHECK_S, CHECK_DELETING_S = 30.0, 0.1
_LEAST_PART = 10  # of the disk, one in
_SEGMENT = re.compile(rf"\d{{4,}}{re.escape(SUFFIX)}")
_MOST_TOLD = 5
_DEPTH = 2  # folders of a run hold those of its triggers


class DiskGuard:
    """Says when a disk is too full to go on, and makes room where it may.

    It is when less than `least_free_bytes` are free, or a tenth of the disk where that is less. With "delete-oldest"
    segments go, one a check, from the recording under `folder` that ended first. It never touches one that is being
    written, was not closed, is marked as kept (a file KEEP in it), is among the newest five, or holds other files.
    Other nodes may delete there too: what vanishes meanwhile is skipped. No method raises OSError.
    """

    def __init__(self, folder: Path, when_full: WhenFull, least_free_bytes: int) -> None:
        self._folder, self._when_full, self._least = folder, when_full, least_free_bytes
        self._next_s = 0.0

    def check(self) -> str:
        """`refusal`, but it looks only every 30 s, or more often while it deletes; in between it is ""."""
        now = time.monotonic()
        if now < self._next_s:
            return ""
        is_short = bool(self.lack())
        refusal = self.refusal() if is_short else ""
        self._next_s = now + (CHECK_DELETING_S if is_short and not refusal else CHECK_S)
        return refusal

    def refusal(self) -> str:
        """Why nothing more may be written: the disk is too full, and there is nothing to delete. "" where it may."""
        lack = self.lack()
        return "" if lack and self._when_full == "delete-oldest" and self._delete_one() else lack

    def lack(self) -> str:
        """Why the disk is too full, "" where it is not."""
        there = self._folder
        try:
            there = next((p for p in (there, *there.parents) if p.is_dir()), Path())
            usage = shutil.disk_usage(there)
        except OSError as error:
            return f"{there}: {error.strerror}"
        least = min(self._least, usage.total // _LEAST_PART)
        return f"less than {least >> 20} MB are free on the disk" if usage.free < least else ""

    def _delete_one(self) -> bool:
        """Delete the first segment of the oldest recording that may go; whether there was one."""
        ends = [(_ended_ns(path), path) for path in folders_with_segments(self._folder)]
        closed = sorted((ended_ns, path) for ended_ns, path in ends if ended_ns is not None)
        for _, folder in closed[:-NEWEST_KEPT]:
            try:
                if _is_deletable(folder) and _delete_first(folder):
                    return True
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("can't delete the old recording %s: %s", folder, error.strerror)
        return False


def folders_with_segments(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Folders at most `depth` below that hold finished or active segments."""
    try:
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return
    for path in inside:
        try:
            if any(p.name.endswith((SUFFIX, ACTIVE)) for p in path.iterdir()):
                yield path
        except OSError:
            continue
        if depth > 1:
            yield from folders_with_segments(path, depth - 1)


def leftovers(folder: Path) -> list[Path]:
    """Recordings below with a segment that no living process writes: a crash left it, or a full disk."""
    return [p for p in folders_with_segments(folder) if _was_left(p)]


def tell_leftovers(folder: Path) -> None:
    """Log how to mend the recordings below that were not closed."""
    found = leftovers(folder)
    for path in found[:_MOST_TOLD]:
        log.warning("%s was not closed; `perception drive recover %s --in-place` makes it whole", path, path)
    if (more := len(found) - _MOST_TOLD) > 0:
        log.warning("%d more recordings in %s were not closed", more, folder)


def _segments(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _SEGMENT.fullmatch(p.name))


def _was_left(folder: Path) -> bool:
    """Whether a segment in it is open, and nobody writes it; False where the folder vanished meanwhile."""
    try:
        return any(not is_in_work(file) for file in folder.glob(f"*{ACTIVE}"))
    except OSError:
        return False


def _ended_ns(folder: Path) -> int | None:
    """When the last segment of a closed recording was written; None where it is not closed, or gone."""
    ended_ns = None
    try:
        for path in _segments(folder):
            with contextlib.suppress(FileNotFoundError):
                ended_ns = max(ended_ns or 0, path.stat().st_mtime_ns)
        return None if any(folder.glob(f"*{ACTIVE}")) else ended_ns
    except OSError:
        return None


def _is_deletable(folder: Path) -> bool:
    """Whether nothing but our segments is in it, and nobody wants to keep it."""
    return all(_SEGMENT.fullmatch(p.name) and _is_ours_or_gone(p) for p in folder.iterdir())


def _is_ours_or_gone(path: Path) -> bool:
    """Whether it is a file of ours, or vanished meanwhile."""
    try:
        return stat.S_ISREG(path.stat().st_mode) and is_ours(path)
    except FileNotFoundError:
        return not path.is_symlink()  # a link to nothing is somebody's, and stays


def _delete_first(folder: Path) -> bool:
    """Delete the first segment that is still there, and the folder after the last one; whether there was one."""
    for path in _segments(folder):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        log.info("deleted %s, the disk is full", path)
        with contextlib.suppress(OSError):  # it is not empty yet
            folder.rmdir()
        return True
    return False

"""Waits for the disk so that nobody else has to."""

from __future__ import annotations

import errno
import logging
import threading

from perception.drives.disk import DiskGuard
from perception.drives.segment import SegmentWriter

log = logging.getLogger(__name__)

SYNC_S = 1.0
FULL = (errno.ENOSPC, errno.EDQUOT)


class Syncer:
    """A thread that makes the open segment outlive a power failure once a second, closes those that are done, and
    looks whether the disk is too full.

    It alone closes the files of segments, so that none is closed while it is being synced. A segment that a full disk
    keeps from being closed is tried again every second; any other failure leaves it unfinished. No failure of the
    disk ends the thread.
    """

    def __init__(self, guard: DiskGuard) -> None:
        self._guard = guard
        self._lock = threading.Lock()
        self._open: SegmentWriter | None = None
        self._done: list[SegmentWriter] = []
        self._left: list[SegmentWriter] = []
        self._trouble = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="recording sync", daemon=True)
        self._thread.start()

    def watch(self, segment: SegmentWriter, is_whole: bool = True) -> None:
        """Sync this one from now on, and close the one before, or leave it unfinished where it is not whole."""
        with self._lock:
            if self._open and is_whole:
                self._done.append(self._open)
            elif self._open:
                self._left.append(self._open)
            self._open, self._trouble = segment, ""

    def trouble(self) -> str:
        """Why the recording has to stop: the open segment can't be synced, or the disk is too full, or fails."""
        return self._trouble

    def close(self) -> None:
        """Close what is done, a last time; the open segment is not touched any more."""
        self._ended.set()
        self._thread.join()
        self._close_done(is_last=True)

    def _work(self) -> None:
        while not self._ended.wait(SYNC_S):
            try:
                self._close_done()
                trouble = self._guard.check()
            except OSError as error:
                trouble = error.strerror or str(error)
            with self._lock:
                segment = self._open
            if segment is None:
                continue
            try:
                segment.sync()
            except OSError as error:
                trouble = error.strerror or str(error)
            with self._lock:
                if trouble and segment is self._open:
                    self._trouble = trouble

    def _close_done(self, is_last: bool = False) -> None:
        with self._lock:
            done, left = list(self._done), self._left
            self._left = []
        for segment in left:
            segment.abandon()
        for segment in done:
            try:
                segment.close()
            except OSError as error:
                if error.errno in FULL and not is_last:
                    continue
                log.warning("%s can't be finished: %s; it can be recovered", segment.active, error.strerror)
                segment.abandon()
            with self._lock:
                self._done.remove(segment)

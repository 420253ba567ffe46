"""The folder of a run: one training at a time writes into it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from perception.errors import ConfigError, reason
from perception.whole_file import remove_partials

log = logging.getLogger(__name__)

LOCK = ".lock"


@contextlib.contextmanager
def held(run: Path, part: str = "") -> Iterator[None]:
    """Make a run's folder, and its folder `part`, and keep other trainings out of it; half-written files are removed.

    The kernel lets the lock go when the process ends, however it ends. Without locks nothing is removed: another
    machine may be writing it.

    Raises:
        ConfigError: another training runs in it, or it can't be made or written.
    """
    try:
        (run / part).mkdir(parents=True, exist_ok=True)
        descriptor = _opened(run / LOCK)
    except OSError as error:
        raise ConfigError(f"{run}: {reason(error)}; name another folder with --run") from None
    try:
        if _lock(descriptor, run):
            for folder in {run, run / part}:
                remove_partials(folder)
        yield
    finally:
        os.close(descriptor)


def _opened(lock: Path) -> int:
    """A descriptor of the file, which is made where there is none. Raises OSError."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(lock, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not lock.exists():
            raise
        return os.open(lock, flags | os.O_RDONLY)  # another user's: to read is enough for a lock


def _lock(descriptor: int, run: Path) -> bool:
    """Take the lock; False where the file system has none. Raises ConfigError where another training has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{run}: another training runs in it; wait for it, or name another folder with --run"
        ) from None
    except OSError as error:  # a network file system without locks
        log.warning("%s: can't be locked (%s); see that no other training runs in it", run, reason(error))
        return False
    return True

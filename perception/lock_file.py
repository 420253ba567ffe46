"""Files that one process holds at a time; the kernel lets them go when it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO


def hold(path: Path, waits: bool = False, mode: int = 0o600) -> TextIO:
    """The file, made where there is none, which this process holds until it is closed.

    The file stays: who removed it would take it from one that waits for it.

    Args:
        waits: until another process lets it go.
        mode: permissions of a new file.

    Raises:
        BlockingIOError: another process holds it. OSError: it can't be made, opened or locked.
    """
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode), "r+")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"another process holds {path}") from None
    except BaseException:
        file.close()
        raise
    return file

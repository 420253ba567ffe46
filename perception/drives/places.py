"""Where results go, looked at before the work that makes them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from perception.errors import RecordingError, reason


def require_writable(path: Path) -> None:
    """Raises RecordingError where no file or folder can be made at `path`; leaves nothing behind."""
    try:
        above = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise RecordingError(f"{path}: can't be written: {reason(error)}") from None

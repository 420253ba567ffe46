"""Folders of this user alone: what nodes leave for the next process, and what can be made again."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def state_folder() -> Path:
    """Where checkpoints lie: $XDG_STATE_HOME/perception, or ~/.local/state/perception."""
    return _folder("XDG_STATE_HOME", Path.home() / ".local" / "state")


def cache_folder() -> Path:
    """Where compiled engines lie: $XDG_CACHE_HOME/perception, or ~/.cache/perception."""
    return _folder("XDG_CACHE_HOME", Path.home() / ".cache")


def _folder(variable: str, usual: Path) -> Path:
    home = os.environ.get(variable, "")
    return (Path(home) if os.path.isabs(home) else usual) / "perception"


def check_private(folder: Path) -> None:
    """Raises OSError for a folder that is not there, or that others may write to or read."""
    found = folder.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(f"{folder} is open to other users: chmod 700 {folder}")

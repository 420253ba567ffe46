"""Files for figures: refused before the work where they can't be written, because the work may take hours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perception.errors import ConfigError, reason


def require_writable(file: Path) -> None:
    """Raise ConfigError where `file` can't be made or written to. What is there stays, and nothing new does."""
    place = file.resolve()
    if not place.parent.is_dir():
        raise ConfigError(f"{file}: its folder is not there; make it first")
    if place.is_dir():
        raise ConfigError(f"{file}: is a folder; give the name of a file")
    is_new = not place.exists()
    if not is_new and not place.is_file():
        return  # opening a pipe would wait for its reader, or end it
    try:
        place.open("ab").close()  # asking for permissions tells nothing of a file system that is read-only
        if is_new:
            place.unlink()
    except OSError as error:
        raise ConfigError(f"{file}: can't be written ({reason(error)})") from None


def write_figures(figures: dict[str, Any], file: Path) -> None:
    """As JSON. Raises ConfigError where it can't be written."""
    try:
        file.write_text(json.dumps(figures, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"{file}: can't be written ({reason(error)})") from None

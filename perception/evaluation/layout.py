"""What a folder holds that is to be a data set, and what one was probably meant where it is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perception.errors import ConfigError

LABELS, ANNOTATIONS = "labels", "Annotations"  # of our form and BDD100K's, and of DAVIS'


def require_layout(data: Path, folders: Sequence[str], wanted: str) -> None:
    """Raise ConfigError where none of `folders` is in `data`; `wanted` says what to give instead."""
    if _has_any(data, folders):
        return
    if not data.is_dir():
        raise ConfigError(f"{data}: {'not a folder' if data.exists() else 'no such folder'}; give {wanted}")
    if _has_any(data, [ANNOTATIONS]):
        raise ConfigError(f"{data}: clips in the form of DAVIS: say --video too, and --given for new predictions")
    parts = [str(part) for part in sorted(data.iterdir()) if _has_any(part, folders)]
    if parts:
        wanted = f"one of its parts: {', '.join(parts)}"
    raise ConfigError(f"{data}: no folder {' or '.join(f'{name}/' for name in folders)} here; give {wanted}")


def _has_any(data: Path, folders: Sequence[str]) -> bool:
    return any((data / name).is_dir() for name in folders)

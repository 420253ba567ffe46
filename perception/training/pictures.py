"""Pictures of whole folders, few enough to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.errors import ConfigError
from perception.images import SUFFIXES


def evenly_spaced(folders: Sequence[Path], most: int, purpose: str) -> list[Path]:
    """At most `most` of the pictures in and below some folders; raises ConfigError where there are none."""
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(f"{folders[0]}: no pictures to {purpose} on")
    return [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, most).astype(int))]

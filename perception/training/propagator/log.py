"""Rows of means every few steps, for the log.csv of a run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from perception.training.log_file import LogFile

COLUMNS: tuple[str, ...] = ("step", "minutes", "learning_rate", "loss")
COLUMNS += ("ce", "jaccard", "presence", "quality", "iou", "hidden")


class Log:
    """Means of the steps since the last row.

    Args:
        path: a log there keeps its rows up to `step`; those after it are written anew.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._file = LogFile(path, COLUMNS, step)
        before = float(self._file.rows[-1]["minutes"] or 0) if self._file.rows else 0.0
        self._started = time.monotonic() - 60 * before
        self._sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take in a step; a value that it lacks, or that is not a number, is no part of the mean."""
        for name, value in values.items():
            if not math.isnan(value):
                self._sums.setdefault(name, []).append(value)

    def write(self, step: int) -> None:
        """A row of what was added since the last one."""
        means = {name: statistics.fmean(v) for name, v in self._sums.items()}
        minutes = (time.monotonic() - self._started) / 60
        self._file.add({"step": str(step)} | {k: f"{v:.6g}" for k, v in ({"minutes": minutes} | means).items()})
        self._sums = {}

    def flush(self) -> None:
        """Write the rows that a full disk refused, if it has room now."""
        self._file.flush()

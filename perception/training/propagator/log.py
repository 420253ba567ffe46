"""log.csv of a run: a row of means every few steps."""

from __future__ import annotations

import csv
import logging
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

COLUMNS: tuple[str, ...] = ("step", "minutes", "learning_rate", "loss")
COLUMNS += ("ce", "jaccard", "presence", "quality", "iou", "hidden")


class Log:
    """A disk that is full costs rows, with a warning, never the run.

    Args:
        path: a log there keeps its rows up to `step`; those after it are written anew.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = [row for row in _read(path) if int(row["step"]) <= step]
        before = float(rows[-1]["minutes"] or 0) if rows else 0.0
        self._started = time.monotonic() - 60 * before
        self._sums: dict[str, list[float]] = {}
        self._write("w", rows, header=True)

    def add(self, values: Mapping[str, float]) -> None:
        """Take in a step; a value that it lacks, or that is not a number, is no part of the mean."""
        for name, value in values.items():
            if not math.isnan(value):
                self._sums.setdefault(name, []).append(value)

    def write(self, step: int) -> None:
        """A row of what was added since the last one."""
        means = {name: statistics.fmean(v) for name, v in self._sums.items()}
        minutes = (time.monotonic() - self._started) / 60
        row = {name: f"{value:.6g}" for name, value in ({"minutes": minutes} | means).items()}
        self._write("a", [{"step": str(step)} | row])
        self._sums = {}

    def _write(self, mode: str, rows: list[dict[str, str]], header: bool = False) -> None:
        try:
            with self.path.open(mode, newline="") as f:
                writer = csv.DictWriter(f, COLUMNS, restval="", extrasaction="ignore")
                if header:
                    writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            log.warning("%s: can't be written: %s", self.path, error)


def _read(path: Path) -> list[dict[str, str]]:
    """Whole rows of a log; a last one that a crash cut off is none."""
    if not path.is_file():
        return []
    with path.open(newline="", errors="replace") as f:
        return [row for row in csv.DictReader(f) if (row.get("step") or "").isdigit() and None not in row.values()]

"""log.csv of a run: a row of numbers every few steps."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from perception.errors import reason
from perception.whole_file import in_place_of

log = logging.getLogger(__name__)


class LogFile:
    """A disk that is full costs a warning, never the run: the rows that it refuses come with the next one it takes.

    Args:
        path: a log there keeps its rows up to `step`; those after it are written anew.
        columns: `step` among them.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        self.path, self.columns = path, tuple(columns)
        self.rows = [row for row in _read(path) if int(row["step"]) <= step]
        self._is_whole = True  # as far as has been warned of
        self._is_whole = self._written(self._write_all)

    def add(self, row: Mapping[str, str]) -> None:
        """A further row, by column name; what it lacks stays empty. One of the last one's step is added to that."""
        is_more = bool(self.rows) and self.rows[-1]["step"] == row["step"]
        if is_more:
            self.rows[-1] |= row
        else:
            self.rows.append(dict(row))
        self._is_whole = self._written(self._append if self._is_whole and not is_more else self._write_all)

    def flush(self) -> None:
        """Write the rows that wait, if any do; a disk that refuses them again was warned of before."""
        if not self._is_whole:
            self._is_whole = self._written(self._write_all)

    def _written(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except OSError as error:
            if self._is_whole:  # once, until it could be written again
                log.warning("%s: can't be written: %s; its rows wait in memory", self.path, reason(error))
            return False
        return True

    def _append(self) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as f:
            csv.DictWriter(f, self.columns, restval="", extrasaction="ignore").writerow(self.rows[-1])

    def _write_all(self) -> None:
        with in_place_of(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)


def _read(path: Path) -> list[dict[str, str]]:
    """Whole rows of a log; a last one that a crash cut off, or a file that is no log, gives none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as f:
        return [row for row in csv.DictReader(f) if _is_whole(row)]


def _is_whole(row: Mapping[str | None, str | None]) -> bool:
    """Whether a row has a step, no column too few or too many, and numbers alone."""
    if not (row.get("step") or "").isdigit() or None in row or None in row.values():
        return False
    try:
        for value in row.values():
            float(value or 0)
    except ValueError:
        return False
    return True

"""Files that say when each picture of a folder was taken.

Read are KITTI raw's timestamps.txt (`2011-09-26 13:02:25.964389445`), KITTI odometry's times.txt (seconds), the
`stamp filename` lists of TUM (rgb.txt) and EuRoC (data.csv), and any file of those names with one stamp a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from perception.errors import SourceError

NAMES = ("timestamps.txt", "stamps.csv", "stamps.txt", "times.txt", "timestamps.csv", "rgb.txt", "data.csv")
"""Names of such files, the first that is there counts."""

_MAX_BYTES = 256 * 2**20
_LATEST_NS = 1 << 62
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,9})?$")
_SPLIT = re.compile(r"[,;\s]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stamps:
    """What a stamps file says."""

    path: Path
    stamps_ns: tuple[int, ...]  # strictly rising, since the first
    names: tuple[str, ...]  # of the pictures, or empty: then they are meant in their order


def read_stamps(path: Path) -> Stamps:
    """Whole numbers are nanoseconds, others seconds; lines that are empty or begin with # are left out.

    Raises:
        SourceError: the file can't be read, a line is no stamp, or a stamp does not come after the one before.
    """
    lines = _lines(path)
    if lines and not _DATE.match(lines[0][1]) and _number(_SPLIT.split(lines[0][1])[0]) is None:
        lines = lines[1:]  # the head of a table
    if not lines:
        raise SourceError(f"{path}: holds no stamps: give one line a picture, or remove the file")
    words = [([text] if _DATE.match(text) else _SPLIT.split(text, maxsplit=1), number) for number, text in lines]
    named = {len(line) for line, _ in words}
    if len(named) > 1:
        raise SourceError(f"{path}: some lines name a picture and some do not: write the same on every line")
    stamps_ns = _to_ns(path, [(line[0], number) for line, number in words])
    return Stamps(path, stamps_ns, tuple(line[1] for line, _ in words) if named == {2} else ())


def _lines(path: Path) -> list[tuple[int, str]]:
    """Line numbers from 1 and the lines that say something."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"{path}: larger than {_MAX_BYTES >> 20} MiB: not taken for a list of stamps")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{path}: is no text: write one stamp a line, or remove the file") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    stripped = ((number, line.strip().strip(",;")) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _to_ns(path: Path, words: list[tuple[str, int]]) -> tuple[int, ...]:
    is_whole = all(re.fullmatch(r"[+-]?\d+", word) for word, _ in words)
    stamps_ns: list[int] = []
    for word, number in words:
        value = _number(word) if is_whole else _date_ns(word)
        if value is None and (seconds := _number(word)) is not None:
            value = seconds * 10**9
        if value is None or abs(value) > _LATEST_NS:
            raise SourceError(
                f"{path}: line {number}: {word[:40]!r} is no stamp: write seconds like 12.5, whole nanoseconds, or"
                " 2011-09-26 13:02:25.964389445"
            )
        stamp_ns = round(value)
        if stamps_ns and stamp_ns <= stamps_ns[-1]:
            raise SourceError(
                f"{path}: line {number}: the stamp {word} is not after the one before: sort the pictures by time, or"
                " remove the file and give ?fps="
            )
        stamps_ns.append(stamp_ns)
    if is_whole and len(stamps_ns) > 1 and (stamps_ns[-1] - stamps_ns[0]) // (len(stamps_ns) - 1) < 1000:
        raise SourceError(f"{path}: whole numbers are nanoseconds and these are too close: write seconds like 1.0")
    return tuple(stamp_ns - stamps_ns[0] for stamp_ns in stamps_ns)


def _number(word: str) -> Decimal | None:
    try:
        value = Decimal(word)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) < _LATEST_NS else None


def _date_ns(word: str) -> int | None:
    """Nanoseconds since 1970; `datetime` itself ends at microseconds."""
    match = _DATE.match(word)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}+00:00")
    except ValueError:
        return None
    seconds = round((moment - _EPOCH).total_seconds())
    return seconds * 10**9 + int((match[3] or ".0")[1:].ljust(9, "0"))

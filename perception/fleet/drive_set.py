"""Which drives are meant: recordings, folders of recordings, videos, globs, and lists of them in text files."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from perception.drives.layout import ACTIVE, SUFFIX
from perception.errors import ConfigError, RecordingError, reason
from perception.images import SUFFIXES as PICTURES
from perception.sources.picture_lists import find_stamps

REFERENCE_FILE = "reference.toml"
RENDERED = "rendered:"
_FILES = (SUFFIX, ".bag", ".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")
_SEGMENT = re.compile(r"\d{4,}\.mcap(\.active)?")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


class Drive(msgspec.Struct, frozen=True):
    """One drive of a set."""

    path: str  # absolute, perhaps with ?options; or rendered:?options
    name: str  # its stem, in letters that every file system takes
    shown: str  # as it was given


def find_drives(texts: Sequence[str], leave_out: Collection[Path] = ()) -> list[Drive]:
    """All drives that these arguments mean, each once, by name.

    A folder of segments, of pictures or with a bag's metadata.yaml is one drive; any other folder stands for the
    drives below it, references left out. A text file names one drive a line, from its own folder on; # begins a
    comment. Devices, streams and commands are no drives.

    Args:
        leave_out: folders in which none is looked for.

    Raises:
        ConfigError: an argument names nothing, or there is no drive in all of them.
    """
    skipped = {path.resolve() for path in leave_out}
    found: dict[str, Drive] = {}
    for text in texts:
        for drive in _of_argument(text, skipped):
            found.setdefault(drive.path, drive)
    if not found:
        told = ", ".join(texts) or "nothing given"
        raise ConfigError(f"{told}: no drive in it: give recordings, videos, folders of them, or a list in a .txt file")
    return sorted(found.values(), key=lambda drive: (drive.name, drive.path))


def is_drive(path: Path) -> bool:
    """Whether what lies there is one drive by its looks: a recording, a video, a bag, or a folder of pictures."""
    return _is_drive(path) if path.is_dir() else path.name.lower().endswith((*_FILES, ACTIVE))


def drive_at(path: Path) -> Drive:
    """The drive that lies there, or should."""
    return _drive(str(path), str(path))


def place_of(drive: Drive) -> Path | None:
    """Its file or folder; None for the rendered drive."""
    return _split(drive.path)[0]


def parse_shard(text: str) -> tuple[int, int]:
    """Place and count of `3/64`; the first place is 1. Raises ConfigError."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {text}: give i/n with i from 1 to n, like 3/64")
    return int(match[1]), int(match[2])


def content_hash(path: str) -> str:
    """SHA-256, hexadecimal, over all bytes of a drive, its stamps and its options; where it lies makes no difference.

    Raises:
        RecordingError: it is not there, or can't be read, or its name is no text.
    """
    if not path.isprintable():  # results, references and reports name it
        raise RecordingError(f"{path!r}: characters in its name that are no text: rename it")
    place, options = _split(path)
    digest = hashlib.sha256(options.encode("utf-8", "surrogateescape"))
    if place is None:
        return digest.hexdigest()
    try:
        if place.is_dir():
            for file in _content(place):
                name = os.path.relpath(file, place).encode("utf-8", "surrogateescape")
                digest.update(name + b"\0" + _sha256(file))
        else:
            digest.update(_sha256(place))
    except OSError as error:
        raise RecordingError(f"{error.filename or path}: {reason(error)}") from None
    return digest.hexdigest()


def _of_argument(text: str, skipped: Collection[Path]) -> Iterator[Drive]:
    place, _ = _split(text)
    if place is None or place.exists():
        if place and place.suffix == ".txt" and place.is_file():
            yield from _of_list(place, skipped)
        elif place and place.is_dir() and not _is_drive(place):
            yield from (_drive(str(path), str(path)) for path in _below(place, skipped))
        else:
            yield _drive(text, text)
        return
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not matches:
        raise ConfigError(f"{text}: no such file or folder, and no pattern that matches one: give a recorded drive")
    for match in matches:
        yield from _of_argument(match, skipped)


def _of_list(file: Path, skipped: Collection[Path]) -> Iterator[Drive]:
    """The drives of a text file; one that is not there stays in the set, so that it is listed as failed."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a list of drives in UTF-8 text: {error}") from None
    for line in lines:
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        text = entry if entry.startswith(RENDERED) else str(file.parent / entry)
        if Path(text).suffix == ".txt":
            raise ConfigError(f"{file}: {entry}: a list may not name another list: give the drives")
        try:
            yield from _of_argument(text, skipped)
        except ConfigError:
            yield _drive(text, entry)


def _below(folder: Path, skipped: Collection[Path]) -> Iterator[Path]:
    """Drives in a folder and in the folders below it."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.resolve() in skipped:
            continue
        if path.is_dir():
            if _is_drive(path):
                yield path
            elif not (path / REFERENCE_FILE).exists():
                yield from _below(path, skipped)
        elif path.name.lower().endswith((*_FILES, ACTIVE)):
            yield path


def _is_drive(folder: Path) -> bool:
    """Whether a folder is one drive: segments, a ROS 2 bag, or pictures alone."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if any(_SEGMENT.fullmatch(file.name) or file.name == "metadata.yaml" for file in files):
        return True
    has_drives = any(file.name.lower().endswith((*_FILES, ACTIVE)) for file in files)
    return not has_drives and any(file.suffix.lower() in PICTURES for file in files)


def _drive(text: str, shown: str) -> Drive:
    place, options = _split(text)
    if place is None:
        return Drive(text, _ODD.sub("-", text.strip()).strip("-"), shown)
    stem = place.name.removesuffix(ACTIVE).removesuffix(SUFFIX)
    stem = stem if place.is_dir() else Path(stem).stem if stem == place.name else stem
    path = str(place.absolute()) + (f"?{options}" if options else "")
    return Drive(path, _ODD.sub("-", f"{stem}-{options}" if options else stem).strip("-.") or "drive", shown)


def _split(text: str) -> tuple[Path | None, str]:
    """The path and the options after it; no path for the rendered drive. Raises ConfigError for what is no path."""
    if text.strip().startswith(RENDERED):
        return None, text.strip()
    if "\0" in text:
        raise ConfigError(f"{text!r}: holds a NUL byte: give a path")
    path, mark, options = text.partition("?")
    if mark and not Path(text).exists() and Path(path).exists():
        return Path(path), options
    return Path(text), ""


def _content(folder: Path) -> list[Path]:
    """The files that are the drive; of pictures also the one with their stamps, which may lie beside the folder."""
    if segments := [path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name)]:
        return sorted(segments)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = find_stamps(folder)
    return [*files, found.stamps] if found and found.stamps not in files else files


def _sha256(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()

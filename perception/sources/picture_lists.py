"""Which pictures of a folder are a drive, in which order, and when each was taken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from perception.errors import SourceError
from perception.images import SUFFIXES
from perception.sources.stamp_files import NAMES, Stamps, read_stamps
from perception.sources.topic import usual_interval_ns
from perception.sources.topic_choice import listed

FPS = 30.0
"""Of pictures that nobody gave a time."""

_CITYSCAPES_FPS = 17.0  # https://www.cityscapes-dataset.com/dataset-overview/: snippets of 30 frames at 17 Hz
_CITYSCAPES = re.compile(r"(?P<sequence>[A-Za-z-]+_\d{6})_(?P<frame>\d{6})_(?:left|right)Img8bit\.\w+$")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class PictureList:
    """Pictures in the order of their stamps."""

    paths: tuple[Path, ...]
    stamps_ns: tuple[int, ...]  # strictly rising from 0
    fps: float  # nominal


def list_pictures(path: Path, fps: float = 0.0, sequence: str = "") -> PictureList:
    """The pictures of a folder, or one picture. Sub-folders are not entered but for a `data` beside a stamps file.

    Args:
        fps: space them evenly so, whatever their names and stamps say; 0: by their stamps file, the rate of
            Cityscapes where they are named so, or 30 a second.
        sequence: which one of several Cityscapes sequences, like aachen_000000.

    Raises:
        SourceError: no pictures, a stamps file that does not fit them, or several sequences and none chosen.
    """
    if path.is_file():
        return _even((path,), fps or FPS)
    found = None if fps else find_stamps(path)
    stamps = read_stamps(found.stamps) if found and not sequence else None
    if found and stamps and stamps.names:  # of pictures that may be in folders of the list's own choice
        return _stamped(stamps, _named(stamps, found.pictures))
    paths = _pictures(path if found is None else found.pictures)
    sequences = _sequences(paths)
    if sequence or (sequences and found is None):
        paths = _chosen(path, sequences, sequence)
        return _even(paths, fps) if fps else _by_frame_number(paths)
    if found is None or stamps is None:
        return _even(paths, fps or FPS)
    _check_count(stamps, paths, found.pictures)
    return _stamped(stamps, paths)


@dataclass(frozen=True, slots=True)
class _Found:
    stamps: Path
    pictures: Path  # the folder that they are of


def find_stamps(folder: Path) -> _Found | None:
    """KITTI raw keeps pictures in a `data` beside the file; KITTI odometry and TUM the file beside their folder."""
    for name in NAMES:
        if (folder / name).is_file():
            inner = folder / "data"
            return _Found(folder / name, inner if inner.is_dir() else folder)
    usual = ("times.txt",) if folder.name.startswith("image_") else ()
    beside = {"data": NAMES, "rgb": ("rgb.txt",)}.get(folder.name, usual)
    parent = folder.absolute().parent
    return next((_Found(parent / name, folder) for name in beside if (parent / name).is_file()), None)


def _check_count(stamps: Stamps, paths: tuple[Path, ...], folder: Path) -> None:
    if len(paths) != len(stamps.stamps_ns):
        raise SourceError(
            f"{stamps.path}: {len(stamps.stamps_ns)} stamps for {len(paths)} pictures in {folder}: give one a picture,"
            " or ?fps= to space them evenly"
        )


def _stamped(stamps: Stamps, paths: tuple[Path, ...]) -> PictureList:
    fps = 1e9 / usual_interval_ns(stamps.stamps_ns)
    return PictureList(paths, stamps.stamps_ns, round(fps, 3))


def _named(stamps: Stamps, pictures: Path) -> tuple[Path, ...]:
    """The pictures that a list names, relative to it or to the folder of pictures."""
    paths = []
    for name in stamps.names:
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or "\0" in name:
            raise SourceError(f"{stamps.path}: {name[:80]!r}: name pictures that are beside the list")
        beside = stamps.path.parent / inner
        paths.append(beside if beside.is_file() else pictures / inner)
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        raise SourceError(f"{stamps.path}: none of the {len(paths)} pictures that it names is there, like {missing[0]}")
    return tuple(paths)


def _sequences(paths: tuple[Path, ...]) -> dict[str, tuple[Path, ...]]:
    """Pictures by Cityscapes sequence; none where they are not named so, or are single pictures and no sequences."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        if match := _CITYSCAPES.match(path.name):
            found.setdefault(match["sequence"], []).append(path)
    if sum(map(len, found.values())) < len(paths) or all(len(group) == 1 for group in found.values()):
        return {}
    return {name: tuple(group) for name, group in found.items()}


def _chosen(folder: Path, sequences: dict[str, tuple[Path, ...]], wanted: str) -> tuple[Path, ...]:
    if wanted in sequences:
        return sequences[wanted]
    if not sequences:
        raise SourceError(f"{folder}: sequence={wanted}: its pictures are not named like Cityscapes sequences")
    names = [f"{name} ({len(group)} pictures)" for name, group in sequences.items()]
    if wanted:
        raise SourceError(f"{folder}: no sequence {wanted!r}: it holds {listed(names, _SHOWN)}")
    if len(sequences) > 1:
        first = next(iter(sequences))
        raise SourceError(
            f"{folder}: several sequences: {listed(names, _SHOWN)}: choose one, like {folder}?sequence={first}"
        )
    return next(iter(sequences.values()))


def _by_frame_number(paths: tuple[Path, ...]) -> PictureList:
    numbers = [int(match["frame"]) for path in paths if (match := _CITYSCAPES.match(path.name))]
    stamps_ns = tuple(round((number - numbers[0]) * 1e9 / _CITYSCAPES_FPS) for number in numbers)
    if any(b <= a for a, b in pairwise(stamps_ns)):
        raise SourceError(f"{paths[0].parent}: two pictures of one frame number: keep one of left and right")
    return PictureList(paths, stamps_ns, _CITYSCAPES_FPS)


def _even(paths: tuple[Path, ...], fps: float) -> PictureList:
    return PictureList(paths, tuple(round(i * 1e9 / fps) for i in range(len(paths))), fps)


def _pictures(folder: Path) -> tuple[Path, ...]:
    try:
        found = [path for path in folder.iterdir() if _is_picture(path)]
        inner = [] if found else [path for path in folder.iterdir() if path.is_dir() and _has_pictures(path)]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}: give a folder of pictures") from None
    if inner:
        names = listed(sorted(path.name for path in inner), _SHOWN)
        raise SourceError(f"{folder}: no pictures in it, but there are some in {names}: give one of these folders")
    if not found:
        raise SourceError(f"{folder}: no pictures in it: give a folder with {', '.join(sorted(SUFFIXES))} files")
    return tuple(sorted(found, key=_natural))


def _has_pictures(folder: Path) -> bool:
    """Directly, or as KITTI keeps them."""
    inner = folder / "data"
    return any(map(_is_picture, folder.iterdir())) or (inner.is_dir() and any(map(_is_picture, inner.iterdir())))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    words = re.findall(r"[0-9]+|[^0-9]+", path.name.lower())
    return [(int(word), "") if word[0] in "0123456789" else (-1, word) for word in words], path.name

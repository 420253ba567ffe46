"""A folder of pictures, or one picture, as a drive."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from perception.errors import SourceError
from perception.sources.images import SUFFIXES, load_image
from perception.sources.shots import Image, Shot

log = logging.getLogger(__name__)


class FolderReader:
    """The pictures of a folder in natural order (2 before 10), evenly spaced; sub-folders are not entered.

    A picture that can't be decoded, or has another size than the first good one, is broken.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """`path` is a folder or one picture. Raises SourceError when there is no picture that can be decoded."""
        self.name = str(path)
        self.fps = fps
        self._paths = [path] if path.is_file() else _pictures(path)
        self.height, self.width = self._first_good().shape[:2]

    def shots(self) -> Iterator[Shot]:
        """One pass; the stamp of picture i is i / fps."""
        for index, path in enumerate(self._paths):
            yield Shot(self._load(path), round(index * 1e9 / self.fps), index)

    def identity(self) -> str:
        """16 hex digits over names, sizes and content of the pictures. Raises SourceError when one can't be read."""
        digest = hashlib.sha256()
        for path in self._paths:
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256")
                size = path.stat().st_size
            except OSError as error:
                raise SourceError(f"{path}: {error.strerror}") from None
            digest.update(f"{path.name}\0{size}\0{content.hexdigest()}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def _first_good(self) -> Image:
        reason = ""
        for path in self._paths:
            try:
                return load_image(path)
            except SourceError as error:
                reason = reason or str(error)
        if len(self._paths) == 1:
            raise SourceError(reason)
        raise SourceError(f"{self.name}: none of its {len(self._paths)} pictures can be decoded; the first: {reason}")

    def _load(self, path: Path) -> Image | None:
        try:
            image = load_image(path)
        except SourceError as error:
            log.debug("%s", error)
            return None
        if image.shape[:2] != (self.height, self.width):
            log.debug("%s: %dx%d instead of %dx%d", path, *image.shape[1::-1], self.width, self.height)
            return None
        return image


def _pictures(folder: Path) -> list[Path]:
    try:
        found = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}: give a folder of pictures") from None
    if not found:
        raise SourceError(f"{folder}: no pictures in it: give a folder with {', '.join(sorted(SUFFIXES))} files")
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    words = re.findall(r"[0-9]+|[^0-9]+", path.name.lower())
    return [(int(word), "") if word[0] in "0123456789" else (-1, word) for word in words], path.name

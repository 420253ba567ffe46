"""A folder of pictures, or one picture, as a drive."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from perception.errors import SourceError
from perception.images import load_image
from perception.sources.picture_lists import list_pictures
from perception.sources.shots import Image, Shot

log = logging.getLogger(__name__)


class FolderReader:
    """The pictures of a folder, by their stamps file or in natural order (2 before 10) and evenly spaced.

    A picture that can't be decoded, or has another size than the first good one, is broken.
    """

    def __init__(self, path: Path, fps: float = 0.0, sequence: str = "") -> None:
        """As `list_pictures`. Raises SourceError also when there is no picture that can be decoded."""
        self.name = str(path)
        found = list_pictures(path, fps, sequence)
        self._paths, self._stamps_ns, self.fps = found.paths, found.stamps_ns, found.fps
        self.height, self.width = self._first_good().shape[:2]

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        """One pass."""
        for index, (path, stamp_ns) in enumerate(zip(self._paths, self._stamps_ns, strict=True)):
            yield Shot(self._load(path) if stamp_ns >= begin_ns else None, stamp_ns, index, path.read_bytes)

    def length_ns(self) -> int:
        """Of the last picture's begin."""
        return self._stamps_ns[-1]

    def identity(self) -> str:
        """16 hex digits over names, sizes, content and stamps. Raises SourceError when one can't be read."""
        digest = hashlib.sha256()
        for path, stamp_ns in zip(self._paths, self._stamps_ns, strict=True):
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                size = path.stat().st_size
            except FileNotFoundError:  # a list may name more than there is: such a picture is broken
                size, content = 0, ""
            except OSError as error:
                raise SourceError(f"{path}: {error.strerror}") from None
            digest.update(f"{path.name}\0{size}\0{content}\0{stamp_ns}\n".encode("utf-8", "surrogateescape"))
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

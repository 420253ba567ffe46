"""A sink that writes overlay pictures: what the masks look like over the camera's image."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError, reason
from perception.labels import ClassTable
from perception.opencv import cv2
from perception.sinks.overlay import draw_scene
from perception.types import Frame, Scene

log = logging.getLogger(__name__)


LEAST_FREE_BYTES = 200 << 20  # saving stops before the disk is full


class PictureFolder:
    """A folder that takes PNG pictures while there is room on its disk.

    Raises:
        ConfigError: the folder can't be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            why = reason(error)
            raise ConfigError(f"{folder}: {why}: give a folder that can be written") from error

    def put(self, name: str, picture: NDArray[np.uint8]) -> str:
        """Write an (h, w, 3) RGB picture; the reason where it could not be written, else "" """
        png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
        try:
            if shutil.disk_usage(self.folder).free < LEAST_FREE_BYTES + len(png):
                return f"less than {LEAST_FREE_BYTES >> 20} MB are free on the disk of {self.folder}"
            (self.folder / name).write_bytes(png)
        except OSError as error:
            return f"{self.folder / name}: {error.strerror}"
        return ""


class PictureSink:
    """Every n-th scene as `<frame seq>.png` in a folder; a full disk stops the pictures, not the node.

    Raises:
        ConfigError: the folder can't be made or written.
    """

    def __init__(self, folder: Path, every: int, classes: ClassTable) -> None:
        self._pictures, self._every, self._classes = PictureFolder(folder), every, classes
        self._count = 0
        self._ended = ""

    def send(self, frame: Frame, scene: Scene) -> None:
        due = self._count % self._every == 0
        self._count += 1
        if not due or self._ended:
            return
        picture = draw_scene(frame.image, scene, self._classes)
        self._ended = self._pictures.put(f"{frame.seq:06d}.png", picture)
        if self._ended:
            log.warning("no more pictures: %s", self._ended)

    def close(self) -> None:
        """Nothing is held open."""

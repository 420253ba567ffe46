"""A sink that writes overlay pictures: what the masks look like over the camera's image."""

from __future__ import annotations

import logging
from pathlib import Path

from perception.errors import ConfigError
from perception.labels import ClassTable
from perception.opencv import cv2
from perception.sinks.overlay import draw_scene
from perception.types import Frame, Scene

log = logging.getLogger(__name__)


class PictureSink:
    """Every n-th scene as `<frame seq>.png` in a folder; a full disk stops the pictures, not the node.

    Raises:
        ConfigError: the folder can't be made or written.
    """

    def __init__(self, folder: Path, every: int, classes: ClassTable) -> None:
        self._folder, self._every, self._classes = folder, every, classes
        self._count = 0
        self._failed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"{folder}: {(error.strerror or str(error)).lower()}; give a folder that can be written"
            ) from None

    def send(self, frame: Frame, scene: Scene) -> None:
        due = self._count % self._every == 0
        self._count += 1
        if not due or self._failed:
            return
        picture = draw_scene(frame.image, scene, self._classes)
        path = self._folder / f"{frame.seq:06d}.png"
        coded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        try:
            path.write_bytes(coded.tobytes())
        except OSError as error:
            self._failed = True
            log.warning("%s: %s; no more pictures", path, error.strerror)

    def close(self) -> None:
        """Nothing is held open."""

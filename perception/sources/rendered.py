"""The rendered drive as a source: no file, any length, the same for the same parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception.sources.shots import Shot

if TYPE_CHECKING:
    from perception.drives.rendered import RenderedDrive


@dataclass(frozen=True, slots=True)
class RenderedReader:
    """The frames of `perception.drives.rendered.RenderedDrive`."""

    seed: int = 0
    frames: int = 600
    width: int = 1280  # [px]
    height: int = 720  # [px]
    fps: float = 30.0

    def __post_init__(self) -> None:
        """Raises ConfigError when the renderer can't make such a drive."""
        self._drive()

    @property
    def name(self) -> str:
        return f"rendered:?seed={self.seed}"

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        """One pass, rendered anew from the start: a frame is the world after all that came before."""
        for frame in self._drive():
            yield Shot(frame.image, frame.stamp_ns, frame.index)

    def length_ns(self) -> int:
        """Exactly."""
        return round(self.frames * 1e9 / self.fps)

    def identity(self) -> str:
        """16 hex digits over the parameters."""
        return hashlib.sha256(repr(self).encode("ascii")).hexdigest()[:16]

    def _drive(self) -> RenderedDrive:
        from perception.drives.rendered import RenderedDrive

        return RenderedDrive(
            seed=self.seed, frames=self.frames, width=self.width, height=self.height, fps=self.fps, truth=False
        )

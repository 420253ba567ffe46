"""Rendered frames as files to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from perception.drives.rendered.drive import RenderedDrive
from perception.drives.rendered.truth import RenderedFrame
from perception.errors import ConfigError

_LONGEST_S = 90.0


def write_training_frames(
    directory: str | Path, count: int, seeds: Sequence[int], width: int, height: int
) -> Iterator[int]:
    """Write `count` frames, spread over the seeds and far apart in time; yields after each how many there are.

    Makes images/000000.png (RGB), labels/000000.png (uint8 class index) and instances/000000.png (uint16 actor id).
    Raises ConfigError when there is no seed or the directory can't be written.
    """
    if not seeds:
        raise ConfigError("no seeds: training frames need at least one; name a range such as 1000-1199")
    root = Path(directory)
    try:
        for name in ("images", "labels", "instances"):
            (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root}: can't be written ({error.strerror}); name a directory that can") from None
    done = 0
    for place, seed in enumerate(seeds):
        share = count * (place + 1) // len(seeds) - count * place // len(seeds)
        rng = np.random.default_rng([seed, 11])
        steps = np.sort(rng.choice(round(_LONGEST_S * 10), share, replace=False)) if share else []
        for frame in RenderedDrive(seed, width, height, fps=10.0).at(map(int, steps)):
            _write(root, f"{done:06d}.png", frame)
            done += 1
            yield done


def _write(root: Path, name: str, frame: RenderedFrame) -> None:
    assert frame.truth is not None
    cv2.imwrite(str(root / "images" / name), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(root / "labels" / name), frame.truth.labels)
    cv2.imwrite(str(root / "instances" / name), frame.truth.instances)

"""Makes the README's picture: `python docs/make_pictures.py CLIP CLIP CLIP` (and the rendered drive as the fourth)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from perception.build import build_model
from perception.config import Launch
from perception.models.card import find
from perception.opencv import cv2
from perception.pipeline import Pipeline
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.sinks.overlay import draw_scene
from perception.sources.url import open_source
from perception.stopwatch import Stopwatch

TILE = (640, 360)  # width, height [px]
RENDERED = "rendered:?seed=0&frames=300"


def picture(drive: str, at: float) -> np.ndarray:
    """The overlay of the frame at the share `at` of a drive, all frames before it tracked; RGB, TILE sized."""
    files = find("")
    model = build_model(files, Launch(version=1), Stopwatch())
    pipeline = Pipeline(model, IouPropagator(model.mask_size, LifeCycle()))
    frames = list(open_source(drive, camera="front"))
    frames = frames[: max(1, int(at * len(frames)))]
    scenes = [pipeline.step(frame) for frame in frames]
    drawn = draw_scene(frames[-1].image, scenes[-1], files.card.class_table())
    return cv2.resize(drawn, TILE, interpolation=cv2.INTER_AREA)


def main() -> None:
    tiles = [picture(drive, 0.55) for drive in sys.argv[1:4]] + [picture(RENDERED, 0.98)]
    rows = [np.hstack(tiles[i : i + 2]) for i in range(0, len(tiles) - 1, 2)]
    out = Path(__file__).parent / "drives.png"
    cv2.imwrite(str(out), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(out)


if __name__ == "__main__":
    main()

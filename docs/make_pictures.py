"""Makes the README's picture of rendered drives that the network has not seen: `python docs/make_pictures.py`."""

from __future__ import annotations

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
SEEDS_AND_FRAMES = ((0, 300), (21, 150), (8, 210), (5, 90))


def picture(seed: int, frame_count: int) -> np.ndarray:
    """The overlay of the last of so many frames of a drive, all tracked; RGB, TILE sized."""
    files = find("")
    model = build_model(files, Launch(version=1), Stopwatch())
    pipeline = Pipeline(model, IouPropagator(model.mask_size, LifeCycle()))
    for frame in open_source(f"rendered:?seed={seed}&frames={frame_count}", camera="front"):
        image, scene = frame.image, pipeline.step(frame)
    drawn = draw_scene(image, scene, files.card.class_table())
    return cv2.resize(drawn, TILE, interpolation=cv2.INTER_AREA)


def main() -> None:
    tiles = [picture(seed, frame_count) for seed, frame_count in SEEDS_AND_FRAMES]
    rows = [np.hstack(tiles[:2]), np.hstack(tiles[2:])]
    out = Path(__file__).parent / "drives.jpg"
    cv2.imwrite(str(out), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(out)


if __name__ == "__main__":
    main()

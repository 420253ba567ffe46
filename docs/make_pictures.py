"""Makes the pictures of README and docs: `python docs/make_pictures.py [drives] [training]`; both without a name."""

from __future__ import annotations

import csv
import sys
from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
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
DOCS = Path(__file__).parent
STAGES = ("1: DeepLabV3+, 480x360", "2: RealtimePanoptic, 640x352", "3: half a pixel", "4: all layers, half of val")
CURVES = ("miou", "lane marking", "pedestrian", "car", "sign", "pole")
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


def drives() -> Path:
    """The README's picture: rendered drives that the network has not seen."""
    tiles = [picture(seed, frame_count) for seed, frame_count in SEEDS_AND_FRAMES]
    rows = [np.hstack(tiles[:2]), np.hstack(tiles[2:])]
    out = DOCS / "drives.jpg"
    cv2.imwrite(str(out), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return out


def training() -> Path:
    """Validation IoU of the default network over its training, from road-training.csv; its stages side by side."""
    rows = list(csv.DictReader((DOCS / "road-training.csv").open()))
    stages = [list(group) for _, group in groupby(rows, lambda row: row["stage"])]
    widths = [max(6, len(stage)) for stage in stages]  # room for the titles
    figure, axes = plt.subplots(1, len(stages), sharey=True, width_ratios=widths, figsize=(9, 4), layout="constrained")
    for axis, stage, title in zip(axes, stages, STAGES, strict=True):
        steps = [int(row["step"]) for row in stage]
        for name in CURVES:
            style = {"linewidth": 2.5, "color": "black"} if name == "miou" else {}
            axis.plot(steps, [100 * float(row[name]) for row in stage], label=name, marker=".", **style)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("IoU on CamVid val, averaged weights [%]")
    names = ["mean of 12 classes", *CURVES[1:]]
    figure.legend(axes[0].lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    out = DOCS / "road-training.png"
    figure.savefig(out, dpi=110)
    return out


def main() -> None:
    makers = {"drives": drives, "training": training}
    for name in sys.argv[1:] or makers:
        print(makers[name]())


if __name__ == "__main__":
    main()

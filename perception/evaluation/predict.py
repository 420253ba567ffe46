"""Predict and score as two loops: predictions go to files, scoring reads files and never runs a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from perception.errors import ConfigError
from perception.evaluation.segmentation import IGNORE, Confusion
from perception.models.semantic import SemanticModel
from perception.opencv import cv2

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
Progress = Callable[[int, int], None]


def predict(model: SemanticModel, images: Path, out: Path, progress: Progress) -> int:
    """Class maps of all pictures in `images`, at the pictures' own size, as PNG in `out`; how many there were.

    A map of another size than its picture is scaled with nearest neighbour: that is what a subscriber would do.

    Raises:
        ConfigError: there are no pictures, or one can't be read.
    """
    paths = sorted(p for p in images.glob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(f"{images}: no pictures here")
    out.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(paths):
        bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ConfigError(f"{path}: can't be read as a picture")
        labels = model(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8)).labels
        labels = cv2.resize(labels, bgr.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(out / f"{path.stem}.png"), labels)
        progress(i + 1, len(paths))
    return len(paths)


def score(predictions: Path, labels: Path, classes: int, progress: Progress) -> Confusion:
    """One confusion matrix over all label files and the predictions of the same name.

    Raises:
        ConfigError: a prediction is missing, of another size, or a label is outside the class list.
    """
    paths = sorted(labels.glob("*.png"))
    if not paths:
        raise ConfigError(f"{labels}: no label PNGs here")
    confusion = Confusion(classes)
    for i, path in enumerate(paths):
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        predicted = cv2.imread(str(predictions / path.name), cv2.IMREAD_UNCHANGED)
        if truth is None or predicted is None:
            raise ConfigError(f"{path if truth is None else predictions / path.name}: missing or unreadable")
        if truth.shape != predicted.shape:
            raise ConfigError(f"{path}: truth is {truth.shape}, prediction {predicted.shape}")
        wrong = np.setdiff1d(np.unique(truth), [*range(classes), IGNORE])
        if wrong.size:
            raise ConfigError(f"{path}: label value {wrong[0]} is not one of 0..{classes - 1} or {IGNORE}")
        confusion.add(truth.astype(np.uint8), predicted.astype(np.uint8))
        progress(i + 1, len(paths))
    return confusion

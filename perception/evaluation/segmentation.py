"""Semantic segmentation metrics from one confusion matrix over the whole set (the Cityscapes definition)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = 255


@dataclass
class Confusion:
    """Pixel counts, rows truth and columns prediction; the last column counts predictions outside the classes.

    A prediction of IGNORE on a labelled pixel is a miss, never skipped.
    """

    classes: int

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes + 1), np.int64)

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count one image: (h, w) label maps of equal shape; truth IGNORE is left out."""
        keep = truth != IGNORE
        t = truth[keep].astype(np.int64)
        p = np.minimum(predicted[keep].astype(np.int64), self.classes)
        n = self.classes + 1
        self.counts += np.bincount(t * n + p, minlength=self.classes * n).reshape(self.classes, n)

    def iou(self) -> NDArray[np.float64]:
        """Per class TP / (TP + FP + FN); NaN for a class in neither truth nor prediction."""
        tp = self._true_positives()
        union = self._sizes() - tp
        return np.where(union > 0, tp / np.maximum(union, 1), np.nan)

    def dice(self, absent: float = np.nan) -> NDArray[np.float64]:
        """Per class 2 TP / (2 TP + FP + FN); `absent` for a class in neither truth nor prediction."""
        size = self._sizes()
        return np.where(size > 0, 2 * self._true_positives() / np.maximum(size, 1), absent)

    def mean_iou(self) -> float:
        return float(np.nanmean(self.iou()))

    def pixel_accuracy(self) -> float:
        """NaN without a labelled pixel."""
        total = self.counts.sum()
        return float(np.trace(self.counts[:, : self.classes]) / total) if total else float("nan")

    def _true_positives(self) -> NDArray[np.float64]:
        return np.diag(self.counts[:, : self.classes]).astype(np.float64)

    def _sizes(self) -> NDArray[np.int64]:
        """Per class |truth| + |prediction| = 2 TP + FP + FN [px]."""
        return self.counts.sum(1) + self.counts[:, : self.classes].sum(0)


def image_dice(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Per class Dice of one image alone: 1 where truth and prediction are both empty, 0 where one of them is."""
    alone = Confusion(classes)
    alone.add(truth, predicted)
    return alone.dice(absent=1.0)

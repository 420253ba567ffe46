"""Segmentation and tracking quality (Weber et al. 2021, "STEP: Segmenting and Tracking Every Pixel", section 4)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.overlap import Overlap, class_of
from perception.evaluation.segmentation import Confusion

Tube = tuple[str, int]  # sequence, key within it


class TrackingQuality(NamedTuple):
    """STQ = sqrt(AQ * SQ)."""

    stq: float
    aq: float
    sq: float


class SegmentationTracking:
    """STQ over a set of clips: tubes and pixel counts are pooled, so it is no mean of the clips' own.

    AQ looks at things only, whatever their classes: of each true tube g, the mean over its pixels of the IoU over time
    between g and the predicted tube there; pixels on crowds are left out of both sides, those on void count in the
    predicted tube. It is 0 without true tubes. SQ is the mean IoU of the class maps; a predicted IGNORE on a labelled
    pixel counts as one more class of IoU 0, as in the reference.

    Args:
        classes: how many.
        things: the classes whose tubes are looked at.
    """

    def __init__(self, classes: int, things: Collection[int]) -> None:
        self.things = np.array(sorted(things), np.int64)
        self.confusion = Confusion(classes)
        self._true: Counter[Tube] = Counter()
        self._predicted: Counter[Tube] = Counter()
        self._both: Counter[tuple[str, int, int]] = Counter()

    def add(self, sequence: str, overlap: Overlap) -> None:
        """Count one frame's tubes."""
        truth, shared = overlap.truth, overlap.shared
        is_thing = np.isin(truth.class_ids, self.things)
        live, crowd = is_thing & ~truth.is_crowd, is_thing & truth.is_crowd
        candidate = np.isin(overlap.predicted.class_ids, self.things)
        kept = shared[:, 1:].sum(0) - shared[1:, 1:][crowd].sum(0)
        for tube, pixels in zip(overlap.true_tubes[live].tolist(), shared[1:].sum(1)[live].tolist(), strict=True):
            self._true[sequence, tube] += pixels
        for tube, pixels in zip(overlap.predicted_tubes[candidate].tolist(), kept[candidate].tolist(), strict=True):
            self._predicted[sequence, tube] += pixels
        inner = shared[1:, 1:] * live[:, None] * candidate
        rows, columns = np.nonzero(inner)
        pairs = zip(overlap.true_tubes[rows].tolist(), overlap.predicted_tubes[columns].tolist(), strict=True)
        for (true, predicted), pixels in zip(pairs, inner[rows, columns].tolist(), strict=True):
            self._both[sequence, true, predicted] += pixels

    def add_labels(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count one frame's class maps."""
        self.confusion.add(truth, predicted)

    def aq(self, class_id: int | None = None) -> float:
        """Over all true tubes, or over those of a class; 0 without any."""
        chosen = {tube for tube in self._true if class_id in (None, class_of(tube[1]))}
        total = 0.0
        for (sequence, true, predicted), pixels in self._both.items():
            if (sequence, true) in chosen:
                size = self._true[sequence, true]
                union = size + self._predicted[sequence, predicted] - pixels
                total += pixels * pixels / union / size
        return total / len(chosen) if chosen else 0.0

    def sq(self) -> float:
        iou = self.confusion.iou()
        iou = iou[~np.isnan(iou)]
        is_void = bool(self.confusion.counts[:, -1].any())
        return float(iou.sum() / (len(iou) + is_void)) if len(iou) + is_void else math.nan

    def quality(self) -> TrackingQuality:
        aq, sq = self.aq(), self.sq()
        return TrackingQuality(math.sqrt(aq * sq), aq, sq)

    def of_class(self, class_id: int) -> TrackingQuality:
        """Of one thing class; NaN where it is not in the truth."""
        if not any(class_of(tube) == class_id for _, tube in self._true):
            return TrackingQuality(math.nan, math.nan, math.nan)
        aq, sq = self.aq(class_id), float(self.confusion.iou()[class_id])
        return TrackingQuality(math.sqrt(aq * sq), aq, sq)

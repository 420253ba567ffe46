"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation", section 4.1), with its void and crowd rules."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.segments import SegmentMap, shared_pixels


class Quality(NamedTuple):
    """Means over the classes that occur; NaN where none does. PQ is not SQ * RQ once they are means."""

    pq: float
    sq: float
    rq: float
    classes: int  # how many were averaged


class PanopticQuality:
    """PQ, SQ and RQ over a set of images, counts pooled class by class.

    A true and a predicted segment of one class match where their IoU is above 0.5, strictly: at most one pair each.
    The union leaves out predicted pixels on the truth's void. Crowds match nothing and are never missed. A predicted
    segment without a match is a false positive unless more than half of it lies on void and on crowds of its class
    (all of them together; panopticapi looks at the last one listed only). A class is averaged when it has any true
    positive, false positive or false negative; its SQ is 0 where nothing matched.

    Args:
        classes: class ids to score; segments of others are looked at by nobody.
    """

    def __init__(self, classes: Collection[int]) -> None:
        self.classes = np.array(sorted(classes), np.int64)
        count = len(self.classes)
        self.iou = np.zeros(count)  # sum over matched pairs
        self.tp, self.fp, self.fn = (np.zeros(count, np.int64) for _ in range(3))

    def add(self, truth: SegmentMap, predicted: SegmentMap) -> None:
        """Count one image; the two maps have one shape."""
        self.count(shared_pixels(truth, predicted), truth.class_ids, truth.is_crowd, predicted.class_ids)

    def count(
        self,
        shared: NDArray[np.int64],
        true_classes: NDArray[np.int64],
        is_crowd: NDArray[np.bool_],
        predicted_classes: NDArray[np.int64],
        left_out: NDArray[np.int64] | int = 0,
    ) -> None:
        """Count one set of segments, as `shared_pixels` gives it, by the class of each.

        `left_out` is how many pixels of each pair's (T, P) predicted segment are no part of their union.
        """
        area_t, area_p = shared.sum(1)[1:], shared.sum(0)[1:]
        void, inner = shared[0, 1:], shared[1:, 1:]
        same = true_classes[:, None] == predicted_classes[None]
        iou = inner / (area_t[:, None] + area_p[None] - inner - void[None] - left_out)
        match = same & ~is_crowd[:, None] & (iou > 0.5)
        forgiven = void + (inner * (same & is_crowd[:, None])).sum(0) > 0.5 * area_p
        rows, columns = np.nonzero(match)
        self.iou += self._by_class(true_classes[rows], iou[rows, columns])
        self.tp += self._by_class(true_classes[rows]).astype(np.int64)
        self.fn += self._by_class(true_classes[~match.any(1) & ~is_crowd]).astype(np.int64)
        self.fp += self._by_class(predicted_classes[~match.any(0) & ~forgiven]).astype(np.int64)

    def by_class(self) -> NDArray[np.float64]:
        """(3, classes) PQ, SQ, RQ of each scored class; NaN for one that never occurred."""
        occurs = self.tp + self.fp + self.fn > 0
        sq = self.iou / np.maximum(self.tp, 1)
        rq = self.tp / np.maximum(self.tp + 0.5 * self.fp + 0.5 * self.fn, 0.5)
        return np.where(occurs, np.stack((sq * rq, sq, rq)), np.nan)

    def mean(self, classes: Collection[int] | None = None) -> Quality:
        """Means over the scored classes, or over those of them in `classes`."""
        chosen = np.ones(len(self.classes), bool) if classes is None else np.isin(self.classes, list(classes))
        values = self.by_class()[:, chosen]
        values = values[:, ~np.isnan(values[0])]
        if not values.size:
            return Quality(float("nan"), float("nan"), float("nan"), 0)
        pq, sq, rq = values.mean(1).tolist()
        return Quality(pq, sq, rq, values.shape[1])

    def _by_class(self, class_ids: NDArray[np.int64], weights: NDArray[np.float64] | None = None) -> NDArray:
        """Sums by scored class; ids that are not scored are left out."""
        if not len(self.classes):
            return np.zeros(0)
        scored = np.isin(class_ids, self.classes)
        place = np.searchsorted(self.classes, class_ids[scored])
        return np.bincount(place, None if weights is None else weights[scored], len(self.classes))

"""How well class borders are met: precision and recall of boundary pixels within a distance.

The measure of Martin, Fowlkes and Malik (2004) as Csurka et al. (2013, "What is a good evaluation measure for
semantic segmentation?") apply it to class regions, with fixed distances in pixels and with counts pooled over the set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.segmentation import IGNORE
from perception.opencv import cv2

TOLERANCES = (1, 2, 4)  # [px]


class BoundaryF:
    """Boundary F per class, pooled over the set.

    A boundary pixel of class c is a pixel of c with a pixel of another class among its four neighbours. The image's
    border is no boundary, and in the truth neither is a border to IGNORE: what lies beyond is not known. Boundary
    pixels on IGNORE or with IGNORE among their eight neighbours are not counted; they can still be what another
    pixel is matched with.

    Precision at t is the share of the prediction's counted boundary pixels with a boundary pixel of the same class in
    the truth at a Euclidean distance of at most t; recall is the same with the two exchanged. F = 2PR / (P + R), 0
    where both are 0 or only one of the two maps has boundary pixels of the class, NaN where neither has.
    """

    def __init__(self, classes: int, tolerances: Sequence[int] = TOLERANCES) -> None:
        self.classes, self.tolerances = classes, tuple(tolerances)
        self.counted = np.zeros((2, classes), np.int64)  # boundary pixels of prediction, truth
        self.matched = np.zeros((2, len(self.tolerances), classes), np.int64)

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count one image: (h, w) label maps of equal shape."""
        in_truth = _boundaries(truth) & (truth != IGNORE)
        in_prediction = _boundaries(predicted, unknown=None)
        ignored = (truth == IGNORE).astype(np.uint8)
        counts = cv2.dilate(ignored, np.ones((3, 3), np.uint8)) == 0
        for c in np.union1d(truth[in_truth], predicted[in_prediction]):
            if c < self.classes:
                t, p = in_truth & (truth == c), in_prediction & (predicted == c)
                self._match(0, int(c), p & counts, t)
                self._match(1, int(c), t & counts, p)

    def add_same(self, labels: NDArray[np.uint8]) -> None:
        """Count one image whose prediction is its truth, without IGNORE: every boundary pixel is met."""
        met = np.bincount(labels[_boundaries(labels)], minlength=self.classes)[: self.classes]
        self.counted += met
        self.matched += met

    def f(self) -> NDArray[np.float64]:
        """(tolerances, classes)."""
        precision, recall = self.matched / np.maximum(self.counted, 1)[:, None]
        both = precision + recall
        value = 2 * precision * recall / np.where(both > 0, both, 1.0)
        return np.where(self.counted.sum(0) > 0, value, np.nan)

    def _match(self, side: int, c: int, pixels: NDArray[np.bool_], targets: NDArray[np.bool_]) -> None:
        self.counted[side, c] += int(pixels.sum())
        apart = pixels & ~targets
        self.matched[side, :, c] += int(pixels.sum() - apart.sum())  # those on a target need no distance
        if not apart.any():
            return
        near = _around(apart, max(self.tolerances) + 1)  # further away nothing is matched
        if not targets[near].any():
            return
        ways = cv2.distanceTransform((~targets[near]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance = ways[apart[near]]
        for k, tolerance in enumerate(self.tolerances):
            self.matched[side, k, c] += int((distance <= tolerance + 1e-3).sum())  # distances are float32 roots


def _around(pixels: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold all the pixels, of which there are some, and `margin` more on each side."""
    rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    return tuple(slice(max(0, int(k[0]) - margin), int(k[-1]) + margin + 1) for k in (rows, columns))  # type: ignore[return-value]


def _boundaries(labels: NDArray[np.uint8], unknown: int | None = IGNORE) -> NDArray[np.bool_]:
    """(h, w) whether one of the four neighbours has another label; a neighbour of label `unknown` says nothing."""
    out = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        a, b = labels[before], labels[after]
        differs = a != b
        out[before] |= differs & (b != unknown) if unknown is not None else differs
        out[after] |= differs & (a != unknown) if unknown is not None else differs
    return out

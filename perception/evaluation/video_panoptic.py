"""Video panoptic quality (Kim et al. 2020, "Video Panoptic Segmentation", section 4)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.overlap import CROWD, Overlap
from perception.evaluation.panoptic_quality import PanopticQuality

WINDOWS = (1, 2, 4, 6, 8)
"""Frames in a window, as VIPSeg counts them (Miao et al. 2022)."""


class VideoPanoptic:
    """PQ of tubes over windows of k consecutive frames, from every frame that has k - 1 before it.

    Segments of one class and track become one tube; tubes match, and are forgiven on void and crowds, as segments are
    in PQ. In frames in which a thing is too small to count, predicted pixels on it are no part of the union with its
    tube. Counts are pooled over all windows of all clips. With k = 1 it is the PQ of pictures.

    Args:
        classes: class ids to score.
        windows: the values of k.
    """

    def __init__(self, classes: Collection[int], windows: Sequence[int] = WINDOWS) -> None:
        self.by_window = {k: PanopticQuality(classes) for k in windows}
        self._recent: deque[Overlap] = deque(maxlen=max(windows))

    def add(self, overlap: Overlap, follows: bool) -> None:
        """Count the next frame; `follows` says that it comes right after the one before, in the same clip."""
        if not follows:
            self._recent.clear()
        self._recent.append(overlap)
        for k, quality in self.by_window.items():
            if len(self._recent) >= k:
                quality.count(*joined(list(self._recent)[-k:]))

    def mean(self, classes: Collection[int] | None = None) -> float:
        """Mean over the windows of the mean PQ; windows that no clip is long enough for are left out."""
        found = [quality.mean(classes).pq for quality in self.by_window.values()]
        found = [pq for pq in found if not math.isnan(pq)]
        return sum(found) / len(found) if found else math.nan


class _Joined(NamedTuple):
    """Tubes of several frames as `PanopticQuality.count` takes segments of one."""

    shared: NDArray[np.int64]  # (T + 1, P + 1) [px]
    true_classes: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    predicted_classes: NDArray[np.int64]
    small: NDArray[np.int64]  # (T, P) pixels on what is too small of the true tube's own thing


def joined(frames: Sequence[Overlap]) -> _Joined:
    tubes, true_first, true_at = np.unique(
        np.concatenate([f.true_tubes for f in frames]), return_index=True, return_inverse=True
    )
    _, first, at = np.unique(
        np.concatenate([f.predicted_tubes for f in frames]), return_index=True, return_inverse=True
    )
    shared = np.zeros((len(true_first) + 1, len(first) + 1), np.int64)
    row = column = 0
    for f in frames:
        rows = np.append(0, true_at[row : row + len(f.truth)] + 1)
        columns = np.append(0, at[column : column + len(f.predicted)] + 1)
        np.add.at(shared, np.ix_(rows, columns), f.shared)
        row, column = row + len(f.truth), column + len(f.predicted)
    classes = np.concatenate([f.truth.class_ids for f in frames])[true_first]
    crowd = np.concatenate([f.truth.is_crowd for f in frames])[true_first]
    small = np.zeros_like(shared[1:, 1:])
    _, whole, part = np.intersect1d(tubes, tubes[crowd] ^ CROWD, return_indices=True)
    small[whole] = shared[1:, 1:][crowd][part]
    return _Joined(shared, classes, crowd, np.concatenate([f.predicted.class_ids for f in frames])[first], small)

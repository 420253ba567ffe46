"""Whether the quality that a track is published with is the IoU that its mask has (reliability as in Guo et al. 2017,
"On Calibration of Modern Neural Networks", of a regressed value)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.overlap import Overlap, track_ids
from perception.evaluation.stored import StoredTrack
from perception.evaluation.tracking import LEAST_IOU

BINS = 10
AGES = (0, 1, 2, 3, 6, 11, 21)
"""First age of each row of the table by age [frames]."""


class Reliability(NamedTuple):
    """One row: masks whose predicted quality, or whose age, is in [low, high)."""

    low: float
    high: float
    masks: int
    predicted: float  # mean quality
    true: float  # mean IoU


class QualityCalibration:
    """Predicted quality of every published mask against its true IoU.

    The true IoU is the greatest with a true thing of the mask's class; masks that have less than 0.5 and lie for more
    than half on void and crowds are left out. A mask's age is how many frames ago the network last confirmed its
    track, or since the track began.

    Args:
        things: the classes whose masks are looked at.
    """

    def __init__(self, things: Collection[int]) -> None:
        self._things = things
        self._rows: list[tuple[float, float, int]] = []  # predicted, true, age
        self._confirmed: dict[int, int] = {}  # of this clip: track -> frame
        self._frame = 0

    def add(self, overlap: Overlap, tracks: Mapping[int, StoredTrack], counts: bool = True) -> None:
        """Count the next frame of a clip; `tracks` are its published tracks by id.

        Without `counts` the masks are not compared, as they were given; ages go on from there.
        """
        for class_id in self._things:
            rows = (overlap.truth.class_ids == class_id) & ~overlap.truth.is_crowd
            ignored = overlap.ignored_share(class_id)
            for k in np.flatnonzero(overlap.predicted.class_ids == class_id).tolist():
                track = tracks[int(track_ids(overlap.predicted)[k])]
                iou = float(overlap.iou[rows, k].max(initial=0.0))
                age = self._age(track)
                if counts and (iou >= LEAST_IOU or ignored[k] <= 0.5):
                    self._rows.append((track.quality, iou, age))
        self._frame += 1

    def end_clip(self) -> None:
        self._confirmed, self._frame = {}, 0

    def by_quality(self) -> list[Reliability]:
        """In ten equal bins; empty ones are left out."""
        edges = np.linspace(0, 1, BINS + 1)
        predicted = np.array([row[0] for row in self._rows])
        place = np.minimum((predicted * BINS).astype(int), BINS - 1)
        return self._table(place, edges)

    def by_age(self) -> list[Reliability]:
        age = np.array([row[2] for row in self._rows], np.int64)
        return self._table(np.searchsorted(AGES, age, side="right") - 1, np.append(AGES, math.inf))

    def expected_error(self) -> float:
        """Mean over the masks of |mean quality - mean IoU| of their bin; NaN without masks."""
        table = self.by_quality()
        total = sum(row.masks for row in table)
        return sum(row.masks * abs(row.predicted - row.true) for row in table) / total if total else math.nan

    def _age(self, track: StoredTrack) -> int:
        if track.observed:
            self._confirmed[track.track_id] = self._frame
        return self._frame - self._confirmed.setdefault(track.track_id, self._frame)

    def _table(self, place: NDArray[np.int64], edges: NDArray[np.float64]) -> list[Reliability]:
        values = np.array(self._rows).reshape(-1, 3)
        return [
            Reliability(float(edges[b]), float(edges[b + 1]), int(at.sum()), *values[at, :2].mean(0).tolist())
            for b in range(len(edges) - 1)
            if (at := place == b).any()
        ]

"""Identity measures (Ristani et al. 2016, "Performance Measures and a Data Set for Multi-Target Tracking")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception.evaluation.tracking import LEAST_IOU, TrackingFrame, numbered


@dataclass
class Identity:
    """IDF1, IDP and IDR, counts pooled over clips.

    Each true track is given one predicted track or none for the whole clip, so that most detections are right.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, frames: Sequence[TrackingFrame]) -> None:
        """Count one clip."""
        true, predicted, places = numbered(frames)
        together = np.zeros((true, predicted))
        for f in places:
            together[np.ix_(f.true_ids, f.predicted_ids)] += f.similarity >= LEAST_IOU
        tp = int(together[linear_sum_assignment(together, maximize=True)].sum())
        self.tp += tp
        self.fn += sum(len(f.true_ids) for f in frames) - tp
        self.fp += sum(len(f.predicted_ids) for f in frames) - tp

    def f1(self) -> float:
        return self.tp / max(1.0, self.tp + 0.5 * self.fp + 0.5 * self.fn)

    def precision(self) -> float:
        return self.tp / max(1, self.tp + self.fp)

    def recall(self) -> float:
        return self.tp / max(1, self.tp + self.fn)

"""Higher order tracking accuracy (Luiten et al. 2021, "HOTA: A Higher Order Metric for Evaluating Multi-Object
Tracking")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perception.evaluation.tracking import TrackingFrame, numbered

ALPHAS = np.arange(0.05, 0.99, 0.05)
_EPS = np.finfo(float).eps


class Hota:
    """HOTA = mean over the thresholds alpha of sqrt(DetA * AssA), counts pooled over clips.

    In each frame one assignment serves all thresholds: that with the greatest sum of similarity times how well the two
    tracks agree over the whole clip (equation 8 and section 3.4 of the paper).
    """

    def __init__(self) -> None:
        self.tp, self.fp, self.fn, self._association, self._location = np.zeros((5, len(ALPHAS)))

    def add(self, frames: Sequence[TrackingFrame]) -> None:
        """Count one clip."""
        true, predicted, places = numbered(frames)
        agreement, true_count, predicted_count = _agreement(true, predicted, places)
        pairs = [_pairs(f, agreement) for f in places]
        owners, ids, similarity = (np.concatenate([p[k] for p in pairs]) if pairs else np.zeros(0) for k in range(3))
        size = true_count[:, None] + predicted_count[None]
        for a, alpha in enumerate(ALPHAS):
            hit = similarity >= alpha - _EPS
            tp = int(hit.sum())
            self.tp[a] += tp
            self.fn[a] += true_count.sum() - tp
            self.fp[a] += predicted_count.sum() - tp
            self._location[a] += similarity[hit].sum()
            together = np.zeros((true, predicted))
            np.add.at(together, (owners[hit].astype(np.int64), ids[hit].astype(np.int64)), 1)
            self._association[a] += (together**2 / np.maximum(1, size - together)).sum()

    def detection(self) -> NDArray[np.float64]:
        """DetA by alpha."""
        return self.tp / np.maximum(1, self.tp + self.fp + self.fn)

    def association(self) -> NDArray[np.float64]:
        """AssA by alpha; 0 where nothing matches."""
        return self._association / np.maximum(1, self.tp)

    def location(self) -> NDArray[np.float64]:
        """LocA by alpha: mean similarity of the pairs; 1 where nothing matches, as in TrackEval."""
        return np.where(self.tp > 0, self._location / np.maximum(1, self.tp), 1.0)

    def by_alpha(self) -> NDArray[np.float64]:
        return np.sqrt(self.detection() * self.association())

    def hota(self) -> float:
        return float(self.by_alpha().mean())


def _agreement(
    true: int, predicted: int, places: Sequence[TrackingFrame]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(true, predicted) Jaccard index of tracks by shares of similarity; in how many frames each of them is."""
    together = np.zeros((true, predicted))
    true_count, predicted_count = np.zeros(true, np.int64), np.zeros(predicted, np.int64)
    for f in places:
        rest = f.similarity.sum(0)[None] + f.similarity.sum(1)[:, None] - f.similarity
        together[np.ix_(f.true_ids, f.predicted_ids)] += np.where(rest > _EPS, f.similarity / np.maximum(rest, _EPS), 0)
        true_count[f.true_ids] += 1
        predicted_count[f.predicted_ids] += 1
    return together / (true_count[:, None] + predicted_count[None] - together), true_count, predicted_count


def _pairs(
    f: TrackingFrame, agreement: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """True id, predicted id and similarity of the pairs of one frame."""
    value = agreement[np.ix_(f.true_ids, f.predicted_ids)] * f.similarity
    rows, columns = linear_sum_assignment(value, maximize=True)
    return f.true_ids[rows], f.predicted_ids[columns], f.similarity[rows, columns]

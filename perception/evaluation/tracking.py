"""A clip as the tracking metrics see it: in each frame some true and some predicted things, and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.overlap import Overlap, track_ids

LEAST_IOU = 0.5
"""From here on a prediction is of a true thing, in IDF1 and CLEAR; HOTA goes through all thresholds."""


class TrackingFrame(NamedTuple):
    true_ids: NDArray[np.int64]  # (t,) each once
    predicted_ids: NDArray[np.int64]  # (p,) each once
    similarity: NDArray[np.float64]  # (t, p) in [0, 1]


def tracking_frame(overlap: Overlap, class_id: int) -> TrackingFrame:
    """The things of one class in one frame, compared by mask IoU.

    True crowds are not asked for. A prediction that reaches IoU 0.5 with no true thing and lies for more than half on
    void and crowds is left out, as in KITTI-MOTS (Voigtlaender et al. 2019, section 3).
    """
    truth, predicted = overlap.truth, overlap.predicted
    rows = (truth.class_ids == class_id) & ~truth.is_crowd
    columns = predicted.class_ids == class_id
    similarity = overlap.iou[rows]
    hit = (similarity >= LEAST_IOU).any(0)
    columns &= hit | (overlap.ignored_share(class_id) <= 0.5)
    return TrackingFrame(track_ids(truth)[rows], track_ids(predicted)[columns], similarity[:, columns])


def numbered(frames: Sequence[TrackingFrame]) -> tuple[int, int, list[TrackingFrame]]:
    """How many true and predicted tracks a clip has, and its frames with ids from 0 on."""
    true = np.unique(np.concatenate([np.zeros(0, np.int64), *(f.true_ids for f in frames)]))
    predicted = np.unique(np.concatenate([np.zeros(0, np.int64), *(f.predicted_ids for f in frames)]))
    places = [
        TrackingFrame(np.searchsorted(true, f.true_ids), np.searchsorted(predicted, f.predicted_ids), f.similarity)
        for f in frames
    ]
    return len(true), len(predicted), places

"""CLEAR MOT (Bernardin and Stiefelhagen 2008, "Evaluating Multiple Object Tracking Performance")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perception.evaluation.tracking import LEAST_IOU, TrackingFrame, numbered

NOBODY = -1
_STAY = 1000.0  # outweighs any sum of similarities: a pair of the frame before stays a pair


@dataclass
class ClearMot:
    """MOTA, MOTP, id switches and fragmentations, counts pooled over clips.

    Frame by frame: pairs of the frame before stay pairs while their IoU is at least 0.5, then the others are assigned
    so that the IoU is greatest. A switch is a true track that gets another predicted id than the last one it had,
    however long ago; a fragmentation is one that is found again after being missed. As in TrackEval, frames without
    true or without predicted things leave the pairs of the frame before as they are.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    switches: int = 0
    fragments: int = 0
    similarity: float = 0.0  # sum over the pairs

    def add(self, frames: Sequence[TrackingFrame]) -> None:
        """Count one clip."""
        true, _, places = numbered(frames)
        last, before, found = np.full(true, NOBODY), np.full(true, NOBODY), np.zeros(true, np.int64)
        for f in places:
            rows, columns = _assigned(f, before)
            self.tp += len(rows)
            self.fn += len(f.true_ids) - len(rows)
            self.fp += len(f.predicted_ids) - len(rows)
            if not len(f.true_ids) or not len(f.predicted_ids):
                continue
            self.similarity += float(f.similarity[rows, columns].sum())
            owners, ids = f.true_ids[rows], f.predicted_ids[columns]
            self.switches += int(((last[owners] != NOBODY) & (last[owners] != ids)).sum())
            found[owners] += before[owners] == NOBODY
            before[:] = NOBODY
            last[owners] = before[owners] = ids
        self.fragments += int(np.maximum(found - 1, 0).sum())

    def mota(self) -> float:
        return (self.tp - self.fp - self.switches) / max(1, self.tp + self.fn)

    def motp(self) -> float:
        """Mean IoU of the pairs; 0 without any."""
        return self.similarity / max(1, self.tp)


def _assigned(f: TrackingFrame, before: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the pairs of one frame; `before` is by true track, its predicted one."""
    stays = f.predicted_ids[None] == before[f.true_ids][:, None]
    near = f.similarity >= LEAST_IOU - np.finfo(float).eps
    value = np.where(near, _STAY * stays + f.similarity, 0.0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    kept = value[rows, columns] > 0
    return rows[kept], columns[kept]

"""Region similarity J and contour accuracy F (Perazzi et al. 2016; Pont-Tuset et al. 2017, "The 2017 DAVIS
Challenge"), semi-supervised: each object's mask is given on the first frame."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from perception.evaluation.overlap import Overlap, track_ids
from perception.evaluation.segments import SegmentMap
from perception.opencv import cv2

TOLERANCE = 0.008  # of the picture's diagonal
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]


class Statistics(NamedTuple):
    """Over the frames of one object."""

    mean: float
    recall: float  # share of frames above 0.5
    decay: float  # mean of the first quarter less that of the last


class RegionContour:
    """J and F of each object that is in the first frame of a clip, on all frames but the first and the last.

    The predicted track of an object is the one that overlaps it most on the first frame; crowds are no objects.
    """

    def __init__(self) -> None:
        self.j: dict[tuple[str, int], list[float]] = {}  # by clip and true track, first frame left out
        self.f: dict[tuple[str, int], list[float]] = {}
        self._partners: dict[int, int] = {}  # of this clip: true track -> predicted one
        self._clip: str | None = None

    def add(self, clip: str, overlap: Overlap) -> None:
        """Count the next frame of a clip; clips come one after the other."""
        if clip != self._clip:
            self._clip, self._partners = clip, _partners(overlap)
            for true in self._partners:
                self.j[clip, true], self.f[clip, true] = [], []
            return
        true_boxes, boxes = (find_objects(m.ids.astype(np.int32)) for m in (overlap.truth, overlap.predicted))
        for true, predicted in self._partners.items():
            k, p = _number(overlap.truth, true), _number(overlap.predicted, predicted)
            j, f = _compare(overlap, (k, true_boxes), (p, boxes))
            self.j[clip, true].append(j)
            self.f[clip, true].append(f)

    def statistics(self) -> dict[tuple[str, int], tuple[Statistics, Statistics]]:
        """J and F of each object; those of clips of fewer than three frames are left out."""
        return {o: (summarised(self.j[o][:-1]), summarised(self.f[o][:-1])) for o in self.j if len(self.j[o]) > 1}


def summarised(values: list[float]) -> Statistics:
    """Mean, recall and decay of the values of consecutive frames.

    The four bins for the decay share their border frames, as in DAVIS' own code.
    """
    v = np.array(values)
    edges = np.round(np.linspace(1, len(v), 5) + 1e-10).astype(int) - 1
    decay = v[edges[0] : edges[1] + 1].mean() - v[edges[3] : edges[4] + 1].mean()
    return Statistics(float(v.mean()), float((v > 0.5).mean()), float(decay))


def jaccard(a: Mask, b: Mask) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def contour_f(truth: Mask, predicted: Mask, tolerance: int) -> float:
    """F of boundary pixels that have one of the other's within a distance [px]; 1 where neither mask has any.

    A pixel is of the boundary where its neighbour to the right, below, or both, is not of the same side.
    """
    a, b = _boundary(truth), _boundary(predicted)
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    r = np.arange(-tolerance, tolerance + 1)
    disk = (r[:, None] ** 2 + r[None] ** 2 <= tolerance**2).astype(np.uint8)
    precision = (b & (cv2.dilate(a.astype(np.uint8), disk) > 0)).sum() / b.sum()
    recall = (a & (cv2.dilate(b.astype(np.uint8), disk) > 0)).sum() / a.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def tolerance_px(shape: tuple[int, ...]) -> int:
    """For a picture of (h, w)."""
    return math.ceil(TOLERANCE * math.hypot(*shape))


def _boundary(mask: Mask) -> Mask:
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != beyond[:-1, 1:]) | (mask != beyond[1:, :-1]) | (mask != beyond[1:, 1:])


def _partners(overlap: Overlap) -> dict[int, int]:
    """The predicted track of each true one, 0 where nothing overlaps it."""
    chosen: dict[int, int] = {}
    tracked = track_ids(overlap.predicted) > 0
    for k, true in enumerate(track_ids(overlap.truth).tolist()):
        if true and not overlap.truth.is_crowd[k]:
            iou = overlap.iou[k] * tracked
            best = int(iou.argmax()) if iou.size else 0
            chosen[true] = int(track_ids(overlap.predicted)[best]) if iou.size and iou[best] > 0 else 0
    return chosen


def _number(segments: SegmentMap, track: int) -> int:
    """Its number in the map, 0 where it is not there."""
    places = np.flatnonzero(track_ids(segments) == track)
    return int(places[0]) + 1 if track and len(places) else 0


def _compare(overlap: Overlap, true: tuple[int, list[Box]], predicted: tuple[int, list[Box]]) -> tuple[float, float]:
    """J and F of two masks, looked at only where they are and as far around them as the tolerance reaches."""
    boxes = [boxes[k - 1] for k, boxes in (true, predicted) if k]
    if not boxes:
        return 1.0, 1.0
    tolerance = tolerance_px(overlap.truth.ids.shape)
    window = tuple(
        slice(max(0, min(b[i].start for b in boxes) - tolerance - 1), max(b[i].stop for b in boxes) + tolerance + 1)
        for i in (0, 1)
    )
    pairs = ((overlap.truth, true[0]), (overlap.predicted, predicted[0]))
    a, b = (m.ids[window] == k if k else np.zeros_like(m.ids[window], bool) for m, k in pairs)
    return jaccard(a, b), contour_f(a, b, tolerance)

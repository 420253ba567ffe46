"""The truth of a clip's first frame, given instead of found: what the semi-supervised figures start from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from perception.evaluation.overlap import track_ids
from perception.evaluation.segments import SegmentMap, small_as_crowd
from perception.evaluation.truth import Truth
from perception.opencv import cv2
from perception.protocols import Model
from perception.types import VOID, Features, Panoptic, Segment


@dataclass
class GivenFirst:
    """A model that answers its first call with the truth: its things with score 1, and its class map where it has one.

    Args:
        model: sees the pictures; of the first one too, for its features and, where the truth has none, its stuff.
        truth: of the first picture.
        things: classes whose true things are given.
        least_area: smaller things are not given [px of the picture].
    """

    model: Model
    truth: Truth
    things: Collection[int]
    least_area: int = 0
    _is_first: bool = True

    def __post_init__(self) -> None:
        self.mask_size = self.model.mask_size

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        seen = self.model(image)
        if not self._is_first:
            return seen
        self._is_first = False
        return given_panoptic(self.truth, seen, self.things, self.least_area)

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        return self.model.features(image)

    def close(self) -> None:
        self.model.close()


def given_panoptic(truth: Truth, seen: Panoptic, things: Collection[int], least_area: int) -> Panoptic:
    """The true things on the grid of what the network saw; class map the truth's, or the network's without things."""
    h, w = seen.labels.shape
    segments = small_as_crowd(truth.segments, things, least_area)
    wanted = np.isin(segments.class_ids, list(things)) & ~segments.is_crowd & (track_ids(segments) > 0)
    lut = np.zeros(len(segments) + 1, np.uint16)
    lut[1:][wanted] = np.arange(1, int(wanted.sum()) + 1)
    id_map = np.asarray(cv2.resize(lut[segments.ids], (w, h), interpolation=cv2.INTER_NEAREST), np.uint16)
    if truth.labels is None:
        labels = np.where(np.isin(seen.labels, list(things)), np.uint8(VOID), seen.labels)
    else:
        labels = np.asarray(cv2.resize(truth.labels, (w, h), interpolation=cv2.INTER_NEAREST))
    classes = segments.class_ids[wanted].tolist()
    labels = np.where(id_map > 0, np.array([0, *classes], np.uint8)[id_map], labels).astype(np.uint8)
    boxes = find_objects(id_map.astype(np.int32), max_label=len(classes))
    return _without_empty(labels, id_map, classes, boxes, seen.features)


def given_masks(segments: SegmentMap) -> list[NDArray[np.bool_]]:
    """(h, w) of each true thing."""
    return [segments.ids == k for k in (np.flatnonzero(track_ids(segments) > 0) + 1).tolist()]


def _without_empty(
    labels: NDArray[np.uint8],
    id_map: NDArray[np.uint16],
    classes: list[int],
    boxes: list[tuple[slice, slice] | None],
    features: Features | None,
) -> Panoptic:
    """Things numbered anew without those that lost their last pixel when the map was made smaller."""
    lut = np.zeros(len(classes) + 1, np.uint16)
    found: list[Segment] = []
    areas = np.bincount(id_map.ravel(), minlength=len(classes) + 1)
    for k, (class_id, box) in enumerate(zip(classes, boxes, strict=True), 1):
        if box is not None:
            rows, columns = box
            found.append(Segment(class_id, 1.0, int(areas[k]), (columns.start, rows.start, columns.stop, rows.stop)))
            lut[k] = len(found)
    return Panoptic(labels, lut[id_map], tuple(found), features)

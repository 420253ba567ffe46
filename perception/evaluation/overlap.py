"""Which predicted tracks lie on which true ones in one frame: what every metric of a clip starts from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.segments import SegmentMap, shared_pixels

_TRACK_BITS = 40  # of a tube's key; above them are a bit for crowds and the class
CROWD = 1 << _TRACK_BITS


@dataclass(frozen=True, eq=False)
class Overlap:
    """One frame's true and predicted segments with the pixels that they share."""

    truth: SegmentMap
    predicted: SegmentMap

    @cached_property
    def shared(self) -> NDArray[np.int64]:
        """(T + 1, P + 1) [px]; row 0 is the truth's void, column 0 what no predicted segment claims."""
        return shared_pixels(self.truth, self.predicted)

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """(T, P) of every true segment, crowds too, with every predicted one, whatever the classes."""
        inner = self.shared[1:, 1:]
        return inner / (self.shared.sum(1)[1:, None] + self.shared.sum(0)[None, 1:] - inner)

    @cached_property
    def true_tubes(self) -> NDArray[np.int64]:
        return tubes(self.truth)

    @cached_property
    def predicted_tubes(self) -> NDArray[np.int64]:
        return tubes(self.predicted)

    def ignored_share(self, class_id: int) -> NDArray[np.float64]:
        """(P,) how much of each predicted segment lies on void and on crowds of a class."""
        crowd = self.truth.is_crowd & (self.truth.class_ids == class_id)
        ignored = self.shared[0, 1:] + self.shared[1:][crowd][:, 1:].sum(0)
        return ignored / np.maximum(self.shared.sum(0)[1:], 1)


def track_ids(segments: SegmentMap) -> NDArray[np.int64]:
    """(n,) 0 where a segment is of no track."""
    return np.zeros(len(segments), np.int64) if segments.track_ids is None else segments.track_ids


def tubes(segments: SegmentMap) -> NDArray[np.int64]:
    """(n,) the key of the tube over time that each segment is a slice of: its class, whether it is a crowd, its track.

    What is too small of a thing is a crowd with the thing's track; all other crowds of a class are one tube.
    """
    return (segments.class_ids << _TRACK_BITS + 1) | np.where(segments.is_crowd, CROWD, 0) | track_ids(segments)


def class_of(tube: int) -> int:
    return tube >> _TRACK_BITS + 1

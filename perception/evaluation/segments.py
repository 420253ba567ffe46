"""One image as a set of disjoint segments: what panoptic quality and mask AP compare."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.evaluation.segmentation import IGNORE

OTHER = -1
"""The class of pixels that are known to be none of the scored classes: no void, and nothing there matches."""
UNKNOWN = 65535
"""In an instance map: things whose extents are not known."""
NUMBERS = 65536
"""How many instance numbers a class has: data sets number the things of each class from 1 on (car 1 and person 1)."""


@dataclass(frozen=True, eq=False)
class SegmentMap:
    """Segments of one image; the k-th of n is number k = 1..n in the map."""

    ids: NDArray[np.int64]  # (h, w) 0 = void: in the truth a pixel that is not scored, in a prediction no segment
    class_ids: NDArray[np.int64]  # (n,)
    is_crowd: NDArray[np.bool_]  # (n,) a region of several things of one class that nobody told apart
    scores: NDArray[np.float64]  # (n,) [0, 1]; 1 in the truth
    track_ids: NDArray[np.int64] | None = None
    """(n,) the same thing's is the same in every frame, and no other thing's of any class; 0 = no thing's."""

    def __len__(self) -> int:
        return len(self.class_ids)


def _numbered(keys: NDArray[np.integer], void: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The map of segment numbers of a map of keys, and the key of each segment, in rising order.

    Keys are at least 0 and at most 2^24: a table of all is much faster than sorting the pixels.
    """
    shifted = np.where(void, 0, keys.astype(np.int64) + 1)
    occurs = np.zeros(int(shifted.max()) + 1, bool)
    occurs[shifted] = True
    occurs[0] = False
    numbers = np.cumsum(occurs, dtype=np.int32)
    numbers[0] = 0
    return numbers[shifted].astype(np.int64), np.flatnonzero(occurs) - 1


def from_packed(packed: NDArray[np.integer], divisor: int, ignored: int) -> SegmentMap:
    """From class * divisor + instance (DeepLab2's form): each value is a segment, stuff having instance 0.

    Only instance 0 of the ignored class is void; its other instances are segments of a class that nobody scores.
    """
    ids, values = _numbered(packed, packed == ignored * divisor)
    tracks = np.where(values % divisor, values, 0)
    return SegmentMap(ids, values // divisor, np.zeros(len(values), bool), np.ones(len(values)), tracks)


def from_panoptic_ids(ids: NDArray[np.integer], listed: Mapping[int, tuple[int, bool]]) -> SegmentMap:
    """From COCO's panoptic form: a map of segment ids, 0 for void, and each id's (class, is crowd).

    Raises:
        ConfigError: an id of the map is not listed, or a listed one has no pixel.
    """
    numbered, values = _numbered(ids, ids == 0)
    odd = set(values.tolist()) ^ set(listed)
    if odd:
        where = "listed but has no pixel" if min(odd) in listed else "in the map but not listed"
        raise ConfigError(f"panoptic segment {min(odd)} is {where}; the map and the list must agree")
    classes = np.array([listed[v][0] for v in values.tolist()], np.int64)
    crowd = np.array([listed[v][1] for v in values.tolist()], bool)
    return SegmentMap(numbered, classes, crowd, np.ones(len(values)))


def true_segments(
    labels: NDArray[np.uint8],
    instances: NDArray[np.uint16] | None,
    things: Collection[int],
    target: NDArray[np.uint8] | None = None,
) -> SegmentMap:
    """From a class map and an instance map: one segment for each stuff class, and for each instance of a thing class.

    Pixels of a thing class with instance 0 or UNKNOWN (all of them without an instance map) are one crowd of their
    class; IGNORE is void; instances on stuff are not looked at. A thing is known by its class and its number: those
    that a merge brings into one class stay apart.

    Args:
        labels: (h, w) class index before any merge; the numbers in `instances` are of these classes.
        instances: (h, w) 0 = none.
        things: the scored classes that are countable.
        target: (256,) the class that each class is scored as; None: itself.
    """
    scored = labels if target is None else target[labels]
    number = np.zeros(labels.shape, np.int64) if instances is None else instances.astype(np.int64)
    number = np.where(np.isin(scored, list(things)) & (number != UNKNOWN), number, 0)
    ids, values = _numbered(np.where(number > 0, labels, scored) * np.int64(NUMBERS) + number, scored == IGNORE)
    is_thing, classes = values % NUMBERS > 0, values // NUMBERS
    if target is not None:
        classes = np.where(is_thing, target[classes], classes)
    crowd = np.isin(classes, list(things)) & ~is_thing
    return SegmentMap(ids, classes, crowd, np.ones(len(values)), np.where(is_thing, values, 0))


def small_as_crowd(segments: SegmentMap, things: Collection[int], least_area: int) -> SegmentMap:
    """The truth with instances of `things` of fewer than `least_area` pixels as crowds: neither missed nor wrong."""
    area = np.bincount(segments.ids.ravel(), minlength=len(segments) + 1)[1:]
    is_small = np.isin(segments.class_ids, list(things)) & (area < least_area)
    return replace(segments, is_crowd=segments.is_crowd | is_small)


def predicted_segments(
    labels: NDArray[np.uint8],
    instances: NDArray[np.uint16],
    listed: Mapping[int, tuple[int, float]],
    things: Collection[int],
    tracks: Mapping[int, int] | None = None,
) -> SegmentMap:
    """From a predicted class map, its instance map, each instance's (class, score) and, in a clip, its track id.

    An instance has its listed class, whatever the labels of its pixels. Pixels of a thing class without an instance
    and pixels outside every class are void. A stuff class is one segment of score 1. Instances of classes that are
    not things (a merge made them stuff) count as no instance.
    """
    kept = np.array([i for i, (class_id, _) in listed.items() if class_id in things], np.int64)
    is_instance = np.isin(instances, kept)
    void = ~is_instance & (np.isin(labels, list(things)) | (labels == IGNORE))
    ids, values = _numbered(np.where(is_instance, instances + np.int64(256), labels), void)
    pairs = [listed[v - 256] if v >= 256 else (v, 1.0) for v in values.tolist()]
    classes = np.array([p[0] for p in pairs], np.int64)
    scores = np.array([p[1] for p in pairs], np.float64)
    track_ids = np.array([(tracks or {}).get(v - 256, 0) for v in values.tolist()], np.int64)
    return SegmentMap(ids, classes, np.zeros(len(values), bool), scores, track_ids)


def shared_pixels(truth: SegmentMap, predicted: SegmentMap) -> NDArray[np.int64]:
    """(len(truth) + 1, len(predicted) + 1) how many pixels each true segment shares with each predicted one.

    Row 0 is the truth's void, column 0 is what no predicted segment claims. The two maps have one shape.
    """
    shape = len(truth) + 1, len(predicted) + 1
    counts = np.bincount((truth.ids * shape[1] + predicted.ids).ravel(), minlength=shape[0] * shape[1])
    return counts.reshape(shape)

"""Instance maps for data sets that have none: what class maps alone say about single things."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.training.targets import UNKNOWN

LEAST_AREA = 40  # [px] smaller regions are mostly fragments
# Of a class: the least share of its bounding box that one whole thing fills, and its least and greatest ratio of
# width to height. Two cars side by side are wider, two pedestrians fill less; looked at on CamVid.
SHAPES = {"car": (0.6, 0.6, 2.2), "pedestrian": (0.4, 0.0, 0.7), "bicyclist": (0.4, 0.0, 1.2)}
ANY_SHAPE = (0.5, 0.0, 3.0)


def without_instances(is_thing: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """(h, w) UNKNOWN on things, 0 elsewhere."""
    return np.where(is_thing, UNKNOWN, 0).astype(np.uint16)


def renumbered(instances: NDArray[np.uint16], first: int = 1) -> NDArray[np.uint16]:
    """(h, w) the same things with numbers `first`, `first` + 1, ... in their order; 0 and UNKNOWN stay.

    Numbers of a data set may be anywhere up to 65534, where adding to them wraps around.
    """
    occurs = np.bincount(instances.ravel(), minlength=UNKNOWN + 1) > 0
    occurs[[0, UNKNOWN]] = False
    table = np.where(occurs, np.cumsum(occurs) + (first - 1), 0)
    table[UNKNOWN] = UNKNOWN
    return table.astype(np.uint16)[instances]


def clean_components(
    codes: NDArray[np.uint8], is_thing: NDArray[np.bool_], classes: Sequence[str]
) -> NDArray[np.uint16]:
    """Instances from a class map: an isolated region shaped like one thing of its class is one, the rest is UNKNOWN.

    Args:
        codes: (h, w); only codes below the number of classes, which are exact, can become instances.
        is_thing: (h, w) pixels that can be a thing.
        classes: name of each exact code.
    """
    out = without_instances(is_thing)
    number = 0
    for code in map(int, np.unique(codes[is_thing])):
        if code >= len(classes):
            continue
        shape = SHAPES.get(classes[code], ANY_SHAPE)
        mask = ((codes == code) & is_thing).astype(np.uint8)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for k in range(1, count):
            if _is_one_thing(stats[k], shape):
                number += 1
                out[regions == k] = number
    return out


def _is_one_thing(stats: NDArray[np.int32], shape: tuple[float, float, float]) -> bool:
    _, _, width, height, area = (int(v) for v in stats)
    least_fill, narrowest, widest = shape
    return area >= LEAST_AREA and area > least_fill * width * height and narrowest < width / height < widest

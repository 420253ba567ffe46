"""Class map to segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.types import Panoptic, Segment

MOST = 200  # segments in one image; the largest are kept
REFERENCE_AREA = 640 * 360  # [px] the size for which a card's min_area is given


def group_things(
    labels: NDArray[np.uint8],
    things: Sequence[int],
    min_areas: Sequence[int],
    confidence: NDArray | None = None,
) -> Panoptic:
    """Connected regions (8-neighbourhood) of each thing class become segments, largest first.

    Args:
        labels: (h, w) class indices.
        things: class indices that are countable.
        min_areas: by class index, smallest segment at 640x360 [px]; scaled to the map's size.
        confidence: (h', w') probability of the winning class as uint8 (0..255) or float, any size; None scores 1.
    """
    scale = labels.size / REFERENCE_AREA
    found: list[tuple[int, int, tuple[int, int, int, int], NDArray[np.bool_]]] = []
    for class_id in things:
        mask = cv2.inRange(labels, class_id, class_id)  # type: ignore[call-overload]  # the stubs want arrays
        if not cv2.hasNonZero(mask):
            continue
        # A map of noise has more regions than 16 bits can number; by default 32 bits take an algorithm thrice as slow
        _, regions, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_BBDT)
        large = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= max(1.0, min_areas[class_id] * scale)) + 1
        for k in large.tolist():
            x, y, w, h, area = stats[k].tolist()
            found.append((area, class_id, (x, y, x + w, y + h), regions[y : y + h, x : x + w] == k))
    found.sort(key=lambda f: (-f[0], f[2], f[1]))
    id_map = np.zeros(labels.shape, np.uint16)
    segments = []
    for area, class_id, (x0, y0, x1, y1), mask in found[:MOST]:
        id_map[y0:y1, x0:x1][mask] = len(segments) + 1
        score = _score(confidence, labels.shape, (x0, y0, x1, y1), mask)
        segments.append(Segment(class_id, score, area, (x0, y0, x1, y1)))
    return Panoptic(labels, id_map, tuple(segments))


def _score(
    confidence: NDArray | None, shape: tuple[int, ...], box: tuple[int, int, int, int], mask: NDArray[np.bool_]
) -> float:
    """Mean confidence over the mask, read at the confidence map's own resolution."""
    if confidence is None:
        return 1.0
    x0, y0, x1, y1 = box
    rows = (np.arange(y0, y1) * confidence.shape[0]) // shape[0]
    columns = (np.arange(x0, x1) * confidence.shape[1]) // shape[1]
    values = confidence[rows[:, None], columns][mask]
    full = 255.0 if confidence.dtype == np.uint8 else 1.0
    return round(float(values.mean(dtype=np.float64)) / full, 4)

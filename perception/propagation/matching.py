"""Which of the things seen now are the things seen before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perception.propagation.tracks import Box


def mask_iou(box_a: Box, mask_a: NDArray[np.bool_], box_b: Box, mask_b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks given as their boxes' crops."""
    x0, y0 = max(box_a[0], box_b[0]), max(box_a[1], box_b[1])
    x1, y1 = min(box_a[2], box_b[2]), min(box_a[3], box_b[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    a = mask_a[y0 - box_a[1] : y1 - box_a[1], x0 - box_a[0] : x1 - box_a[0]]
    b = mask_b[y0 - box_b[1] : y1 - box_b[1], x0 - box_b[0] : x1 - box_b[0]]
    both = int(np.count_nonzero(a & b))
    union = int(np.count_nonzero(mask_a)) + int(np.count_nonzero(mask_b)) - both
    return both / union if union else 0.0


def match(similarity: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of the assignment with the greatest total similarity, each at least `least`.

    Similarities below `least` count as nothing, so that a poor pair never displaces a good one.
    """
    gated = np.where(similarity >= least, similarity, 0.0)
    if not gated.any():
        return []
    rows, columns = linear_sum_assignment(gated, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if gated[r, c] > 0]


def similarities(
    boxes_a: Sequence[Box],
    masks_a: Sequence[NDArray[np.bool_]],
    classes_a: Sequence[int],
    boxes_b: Sequence[Box],
    masks_b: Sequence[NDArray[np.bool_]],
    classes_b: Sequence[int],
) -> NDArray[np.float64]:
    """(len a, len b) mask IoU; 0 across classes."""
    out = np.zeros((len(boxes_a), len(boxes_b)))
    for i, (box_a, mask_a, class_a) in enumerate(zip(boxes_a, masks_a, classes_a, strict=True)):
        for j, (box_b, mask_b, class_b) in enumerate(zip(boxes_b, masks_b, classes_b, strict=True)):
            if class_a == class_b:
                out[i, j] = mask_iou(box_a, mask_a, box_b, mask_b)
    return out

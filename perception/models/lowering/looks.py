"""How things look, as a graph: `perception.looks` for all segments at once. A test holds the two together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception.looks import COARSE, LEAST_SPREAD
from perception.models.grouping import MOST
from perception.models.lowering.arrays import FLOAT, Tensor

STEPS = (4, 8)  # size of a cell of each plane [px of the class map]
WEIGHTS = (1.0, float(COARSE))


def looks(instances: Tensor, planes: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """(1, MOST, d) look of each segment, of unit length; 0 where there is none, and of one that no cell's middle meets.

    Args:
        instances: (1, 1, H, W) 0 = no thing, k = the segment in row k - 1.
        planes: the features (1, c, h, w) at 1/4 and at 1/8, of these `shapes`.
    """
    step, (h, w) = STEPS[0], shapes[0][2:]
    cells = instances.slices([step // 2] * 2, [step * h, step * w], [2, 3], [step] * 2).reshape(1, 1, h * w)
    is_of = cells.equals(np.arange(1, MOST + 1, dtype=np.float32).reshape(1, MOST, 1)).cast(FLOAT)
    writer, sums = instances.writer, []
    for plane, shape, size, weight in zip(planes, shapes, STEPS, WEIGHTS, strict=True):
        scaled = (_standardised(plane, shape) * weight).enlarged(size // step)
        sums.append(writer.op("MatMul", is_of, scaled.reshape(1, shape[1], h * w).transpose(0, 2, 1)))
    means = writer.op("Concat", *sums, axis=2) / writer.op("Max", is_of.sum(2), np.float32(1))
    length = writer.op("Sqrt", (means * means).sum(2))
    return means / writer.op("Max", length, np.float32(1e-6))


def _standardised(plane: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Each channel of (1, c, h, w) with mean 0 and spread 1 over the picture."""
    count = float(shape[2] * shape[3])
    away = plane - plane.sum(2).sum(3) * (1 / count)
    spread = away.writer.op("Sqrt", (away * away).sum(2).sum(3) * (1 / count))
    return away / away.writer.op("Max", spread, LEAST_SPREAD)

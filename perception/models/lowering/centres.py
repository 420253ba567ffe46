"""`models.centres` as a graph: centres of things, and which one each cell points to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from perception.models.card import Grouping
from perception.models.lowering.arrays import FLOAT, Tensor
from perception.models.panoptic import REACH_CELLS, REACH_SHARE

FAR = 1e6  # [px] where a centre that is none lies: further than any reach
LOOKS = 3  # around, in each round of linking
PLATEAU_ROUNDS = 2  # suffice for plateaus of heat a dozen cells long


class Centres(NamedTuple):
    """(1, K) each, the hottest first; those that are none have heat 0 and lie far away."""

    rows: Tensor  # [px]
    columns: Tensor  # [px]
    heat: Tensor


def first_of_region(mask: Tensor, shape: tuple[int, int, int], radius: int, rounds: int) -> tuple[Tensor, Tensor]:
    """For each cell of a mask the first cell, in row order, of all that are linked to it by steps of `radius`.

    A place is given as n - index, n being the number of cells, so that the first is the greatest and 0 is none. Each
    round looks around LOOKS times, then jumps to where the cell found is pointing (as Shiloach and Vishkin 1982 do): a
    static number of rounds suffices for regions up to a size and crookedness; a larger one may fall apart.

    Args:
        mask: (1, c, h, w) bool; channels are not linked.
        shape: (c, h, w).
        radius: [cells].
        rounds: of looking and jumping.

    Returns:
        (1, c, h, w) the place of the first, 0 outside the mask, and the own place of each cell.
    """
    writer, count = mask.writer, int(np.prod(shape))
    own = writer.constant((count - np.arange(count, dtype=np.float32)).reshape(1, *shape))
    inside = mask.cast(FLOAT)
    found = inside * own
    for _ in range(rounds):
        for _ in range(LOOKS):
            found = found.neighbours_max(2 * radius + 1) * inside
        at = count - writer.op("Max", found, np.float32(1))
        found = found.reshape(-1).take(at) * inside
    return found, own


def find_centres(heat: Tensor, shape: tuple[int, int], unit: float, grouping: Grouping) -> Centres:
    """As `models.centres.find_centres`; (1, 1, h, w) heat, `unit` the size of a cell [px]."""
    writer, (h, w) = heat.writer, shape
    peaks = (heat >= heat.neighbours_max(grouping.kernel)) & (heat > grouping.threshold)
    first, own = first_of_region(peaks, (1, h, w), max(1, grouping.kernel // 2), PLATEAU_ROUNDS)
    hot = writer.where(first.equals(own), heat, 0.0).reshape(1, -1)
    most = writer.ints([min(grouping.most, h * w)])
    values, index = writer.ops("TopK", 2, hot, most, axis=1, largest=1, sorted=1)
    at = index.cast(FLOAT)
    row = ((at + 0.5) / float(w)).floor()
    is_one = values > max(0.0, grouping.threshold)
    rows, columns = (writer.where(is_one, v * unit, FAR) for v in (row, at - row * float(w)))
    return Centres(rows, columns, writer.where(is_one, values, 0.0))


def assign(centres: Centres, offset: Tensor, shape: tuple[int, int], unit: float) -> tuple[Tensor, Tensor]:
    """(1, 2, h, w) offsets [px] -> (1, 1, h, w) the nearest centre, from 1, and how far the vote strays from it [px].

    0 is no centre within reach; such a vote strays by as much as it may.

    Squares are taken of differences, never multiplied out: TensorFloat-32 would round products of coordinates.
    """
    writer, (h, w) = offset.writer, shape
    rows, columns = np.indices(shape, np.float32).reshape(2, -1, 1) * np.float32(unit)
    dy, dx = (offset.slices([i], [i + 1], [1], [1]).reshape(h * w, 1) for i in (0, 1))
    down, right = dy + rows - centres.rows, dx + columns - centres.columns
    squares = down * down + right * right
    nearest = writer.op("ArgMin", squares, axis=1, keepdims=1).cast(FLOAT)
    reach = REACH_CELLS * unit + REACH_SHARE * _sqrt(dy * dy + dx * dx)
    distance = _sqrt(squares.min(1))
    instance = writer.where(distance <= reach, nearest + 1.0, 0.0)
    return instance.reshape(1, 1, h, w), writer.op("Min", distance, reach).reshape(1, 1, h, w)


def _sqrt(value: Tensor) -> Tensor:
    return value.writer.op("Sqrt", value)

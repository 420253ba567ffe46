"""A class map and instances on a coarser grid to segments of the class map's size (Cheng et al. 2020, section 3.3).

The work is done on the grid: with cells of 4 px that is a sixteenth of the pixels. What one instance has of one class
is a part. Where the paper gives a whole instance the class that most of its pixels have, a part that is large enough
to be a thing of its own class stays one here: a pedestrian in front of a car is not to become car.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perception.models.grouping import MOST, REFERENCE_AREA
from perception.opencv import cv2
from perception.types import Panoptic, Segment

NEIGHBOURS = np.ones((3, 3), np.uint8)


class ClassCells(NamedTuple):
    """One class of things on the grid, cut out where it is; (h', w') cells of step x step pixels."""

    class_id: int
    window: tuple[slice, slice]  # rows and columns of the grid
    area: tuple[slice, slice]  # the same of the class map [px]
    mask: NDArray[np.uint8]  # (h' * step, w' * step) 255 where the class map has this class
    pixels: NDArray[np.float32]  # (h', w') how many of the cell's pixels have it
    is_core: NDArray[np.bool_]  # (h', w') the pixel in the cell's middle has it


class Parts(NamedTuple):
    """What each instance has of each class; (C, M): C thing classes, M instance numbers, 0 being none."""

    pixels: NDArray[np.float64]
    owner: NDArray[np.intp]  # the place of the class that the part takes on
    number: NDArray[np.uint16]  # the segment that the part belongs to, 0 where it is noise


class Evidence(NamedTuple):
    """What a segment's score is made of."""

    heat: NDArray[np.float32]  # (K + 1,) in [0, 1], how sure each instance's centre is, at 0 that of things without one
    stray: NDArray[np.float32]  # (h, w) how far each cell's vote is from its centre, times `Grouping.vote_weight`
    confidence: NDArray | None = None  # (h', w') probability of the winning class, uint8 or float; None counts as 1


def thing_cells(labels: NDArray[np.uint8], things: Iterable[int], grid: tuple[int, ...]) -> list[ClassCells]:
    """The thing classes that are in a map, on a grid (h, w) of whole cells."""
    step = labels.shape[0] // grid[0]
    found = []
    for class_id in things:
        mask = cv2.inRange(labels, class_id, class_id)  # type: ignore[call-overload]  # the stubs want arrays
        x, y, w, h = cv2.boundingRect(mask)
        if w:
            window = np.s_[y // step : -(-(y + h) // step), x // step : -(-(x + w) // step)]
            found.append(_class_cells(class_id, mask.astype(np.uint8, copy=False), window, step))
    return found


def _class_cells(class_id: int, mask: NDArray[np.uint8], window: tuple[slice, slice], step: int) -> ClassCells:
    rows, columns = (slice(s.start * step, s.stop * step) for s in window)
    cut = mask[rows, columns]
    size = (window[1].stop - window[1].start, window[0].stop - window[0].start)
    share = cv2.resize(cut, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    middle = cut[step // 2 :: step, step // 2 :: step] > 0
    return ClassCells(class_id, window, (rows, columns), cut, np.rint(share * (step**2 / 255)), middle)


def merge(
    labels: NDArray[np.uint8],
    cells: Sequence[ClassCells],
    instances: NDArray[np.uint16],
    evidence: Evidence,
    min_areas: Sequence[int],
) -> Panoptic:
    """Segments, largest first; `labels` is changed where a part takes on the class of its instance.

    Args:
        labels: (H, W) class indices.
        cells: of the classes that are things; the grid is (h, w).
        instances: (h, w) instance k = 1..K of each cell, 0 where it has none: what is connected is one then.
        evidence: for the scores.
        min_areas: by class index, smallest segment at 640x360 [px]; scaled to the map's size.
    """
    if not cells:
        return Panoptic(labels, np.zeros(labels.shape, np.uint16), ())
    numbers, most = [], len(evidence.heat) - 1
    for c in cells:
        numbers.append(_instances_of(c, instances[c.window], most))
        most = max(most, int(numbers[-1].max()))
    least = [max(1.0, min_areas[c.class_id] * labels.size / REFERENCE_AREA) for c in cells]
    parts = _parts(cells, numbers, most + 1, least)
    class_ids = np.array([c.class_id for c in cells], np.uint8)
    id_map = np.zeros(labels.shape, np.uint16)
    grids = [parts.number[i][numbers[i]] for i in range(len(cells))]
    for i, c in enumerate(cells):
        cv2.copyTo(_enlarged(grids[i], c.mask), c.mask, id_map[c.area])
        if (parts.owner[i] != i).any():
            _relabel(labels[c.area], c, grids[i], class_ids[parts.owner[i]][numbers[i]])
    scores = _scores(cells, numbers, parts, evidence, instances.shape)
    return Panoptic(labels, id_map, _segments(id_map, cells, grids, parts, scores))


def _instances_of(cells: ClassCells, instances: NDArray[np.uint16], most: int) -> NDArray[np.uint16]:
    """(h', w') instance of the cell's pixels of this class.

    The network learns offsets for the middles of cells. A cell with something of the class beside its middle takes
    the instance of a neighbour whose middle has the class, and its own offset's only where there is none. What is
    left without an instance is grouped by connection, with numbers above `most`.
    """
    own = np.where(cells.pixels > 0, instances, 0).astype(np.uint16)
    core = np.where(cells.is_core, own, 0).astype(np.uint16)
    around = np.where(cells.pixels > 0, cv2.dilate(core, NEIGHBOURS), 0)
    out = np.where(core > 0, core, np.where(around > 0, around, own)).astype(np.uint16)
    missing = (cells.pixels > 0) & (out == 0)
    if missing.any():
        _, regions = cv2.connectedComponents(missing.astype(np.uint8), connectivity=8, ltype=cv2.CV_16U)
        out[missing] = regions[missing] + most
    return out


def _parts(
    cells: Sequence[ClassCells], numbers: Sequence[NDArray[np.uint16]], count: int, least: Sequence[float]
) -> Parts:
    """Which parts are things, which take on another class, and their segments' numbers, the largest first."""
    pixels = np.stack([_sums(n, c.pixels, count) for c, n in zip(cells, numbers, strict=True)])
    is_thing = pixels >= np.array(least)[:, None]
    mode = np.broadcast_to(pixels.argmax(0), pixels.shape)
    own = np.arange(len(cells))[:, None]
    owner = np.where(is_thing, own, mode)
    total = np.zeros_like(pixels)
    columns = np.broadcast_to(np.arange(count), pixels.shape)
    np.add.at(total, (owner, columns), pixels)
    total[~is_thing] = 0
    total[:, 0] = 0
    order = np.argsort(-total.ravel(), kind="stable")[: min(MOST, int((total > 0).sum()))]
    number = np.zeros(total.size, np.uint16)
    number[order] = np.arange(1, len(order) + 1)
    return Parts(pixels, owner, number.reshape(total.shape)[owner, columns])


def _sums(numbers: NDArray[np.uint16], weights: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """(count,) sum of the weights of the cells of each number; 0 for number 0."""
    at = np.flatnonzero(numbers)
    return np.bincount(numbers.reshape(-1)[at], weights.reshape(-1)[at].astype(np.float64), count).astype(np.float64)


def _enlarged(grid: NDArray, mask: NDArray[np.uint8]) -> NDArray:
    return cv2.resize(grid, mask.shape[::-1], interpolation=cv2.INTER_NEAREST)


def _relabel(
    labels: NDArray[np.uint8],
    cells: ClassCells,
    number: NDArray[np.uint16],
    taken: NDArray[np.uint8],
) -> None:
    """Parts of an instance that are no things of their own get its class."""
    moves = ((number > 0) & (taken != cells.class_id)).astype(np.uint8)
    if moves.any():
        cv2.copyTo(_enlarged(taken, cells.mask), cells.mask & _enlarged(255 * moves, cells.mask), labels)


def _scores(
    cells: Sequence[ClassCells],
    numbers: Sequence[NDArray[np.uint16]],
    parts: Parts,
    evidence: Evidence,
    grid: tuple[int, ...],
) -> NDArray[np.float64]:
    """(segments + 1,) mean confidence over a segment's pixels, times its heat (section 3.3's objectness), times how
    well its pixels agree on where its centre is: one that lies over two things has votes for both.
    """
    count, size = parts.pixels.shape[1], int(parts.number.max()) + 1
    hot = np.full(count, evidence.heat[0], np.float64)
    hot[1 : len(evidence.heat)] = evidence.heat[1:]
    confidence = None if evidence.confidence is None else _on_grid(evidence.confidence, grid)
    area, weighted, strayed = np.zeros((3, size))
    for i, (c, n) in enumerate(zip(cells, numbers, strict=True)):
        sure = c.pixels if confidence is None else c.pixels * confidence[c.window]
        np.add.at(area, parts.number[i], parts.pixels[i])
        np.add.at(weighted, parts.number[i], _sums(n, sure, count) * hot)
        np.add.at(strayed, parts.number[i], _sums(n, c.pixels * evidence.stray[c.window], count))
    area = np.maximum(area, 1)
    return weighted / area / (1 + (strayed / area) ** 2 / area)


def _on_grid(confidence: NDArray, grid: tuple[int, ...]) -> NDArray[np.float32]:
    """Confidence 0..1 of each cell."""
    full = 255.0 if confidence.dtype == np.uint8 else 1.0
    values = confidence.astype(np.float32) / np.float32(full)
    return values if values.shape == grid else cv2.resize(values, grid[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _segments(
    id_map: NDArray[np.uint16],
    cells: Sequence[ClassCells],
    grids: Sequence[NDArray[np.uint16]],
    parts: Parts,
    scores: NDArray[np.float64],
) -> tuple[Segment, ...]:
    boxes = _cell_boxes(cells, grids)
    step = cells[0].mask.shape[0] // grids[0].shape[0]
    class_of = np.zeros(len(scores), np.intp)
    class_of[parts.number] = np.array([c.class_id for c in cells])[parts.owner]
    segments = []
    for k in range(1, len(scores)):
        x0, y0, x1, y1 = (step * v for v in boxes[k])
        mask = cv2.inRange(id_map[y0:y1, x0:x1], k, k)  # type: ignore[call-overload]
        x, y, w, h = cv2.boundingRect(mask)
        box = (x0 + x, y0 + y, x0 + x + w, y0 + y + h)
        segments.append(Segment(int(class_of[k]), round(float(scores[k]), 4), cv2.countNonZero(mask), box))
    return tuple(segments)


def _cell_boxes(
    cells: Sequence[ClassCells], grids: Sequence[NDArray[np.uint16]]
) -> dict[int, tuple[int, int, int, int]]:
    """(x0, y0, x1, y1) around each number in any of the classes' grids [cells]."""
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for c, grid in zip(cells, grids, strict=True):
        top, left = c.window[0].start, c.window[1].start
        for k, found in enumerate(ndimage.find_objects(grid), start=1):
            if found:
                rows, columns = found
                box = (left + columns.start, top + rows.start, left + columns.stop, top + rows.stop)
                x0, y0, x1, y1 = boxes.get(k, box)
                boxes[k] = (min(x0, box[0]), min(y0, box[1]), max(x1, box[2]), max(y1, box[3]))
    return boxes

"""Masks of tracks onto the published maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.propagation.carrier import CELL
from perception.types import Panoptic, Segment

Box = tuple[int, int, int, int]
SPECK_PX = 16  # smaller pieces and holes of a carried mask are noise (SAM 3 fills the same)


def cells_of(id_map: NDArray[np.uint16], boxes: Sequence[Box]) -> NDArray[np.int64]:
    """(h, w) ids -> (h / CELL, w / CELL), each cell's middle; a thing too small to meet one gets its box's middle."""
    cells = id_map[CELL // 2 :: CELL, CELL // 2 :: CELL].astype(np.int64)
    missing = np.flatnonzero(np.bincount(cells.ravel(), minlength=len(boxes) + 1)[1:] == 0)
    for k in missing.tolist():
        x0, y0, x1, y1 = boxes[k]
        row, column = (y0 + y1) // (2 * CELL), (x0 + x1) // (2 * CELL)
        at = min(row, cells.shape[0] - 1), min(column, cells.shape[1] - 1)
        if not cells[at]:
            cells[at] = k + 1
    return cells


def soft_mask(id_map: NDArray[np.uint16], number: int, box: Box, out: NDArray[np.float32]) -> None:
    """Write the share that a thing has of each cell into `out` (h / CELL, w / CELL)."""
    x0, y0, x1, y1 = box
    left, top = x0 // CELL, y0 // CELL
    right, bottom = -(-x1 // CELL), -(-y1 // CELL)
    window = id_map[top * CELL : bottom * CELL : 2, left * CELL : right * CELL : 2] == number
    rows, columns = bottom - top, right - left
    out[top:bottom, left:right] = window.reshape(rows, CELL // 2, columns, CELL // 2).mean((1, 3))


def enlarged(probability: NDArray[np.float32]) -> tuple[NDArray[np.float32], Box]:
    """A carried mask at the size of the published one, cut to where it is; (crop, box [mask px])."""
    is_there = probability > 0.25
    rows, columns = np.flatnonzero(is_there.any(1)), np.flatnonzero(is_there.any(0))
    h, w = probability.shape
    top, bottom = max(0, int(rows[0]) - 1), min(h, int(rows[-1]) + 2)
    left, right = max(0, int(columns[0]) - 1), min(w, int(columns[-1]) + 2)
    crop = probability[top:bottom, left:right]
    size = ((right - left) * CELL, (bottom - top) * CELL)
    large = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_LINEAR), np.float32)
    return large, (left * CELL, top * CELL, right * CELL, bottom * CELL)


def without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without pieces and holes of fewer than SPECK_PX pixels; the only piece stays, however small."""
    # one outline is one piece without a hole, as nearly all masks are: ten times as fast as to label regions
    if len(cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]) <= 1:
        return mask
    for value in (1, 0):
        plane = (mask == bool(value)).astype(np.uint8)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(plane, connectivity=8 if value else 4)
        small = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < SPECK_PX)
        small = small[small > 0]
        if len(small) and count - 1 > (len(small) if value else 0):
            mask = mask ^ np.isin(regions, small)
    return mask


def tight(mask: NDArray[np.bool_], box: Box) -> tuple[NDArray[np.bool_], Box] | None:
    """A crop and its box without empty borders; None where nothing is set."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    x, y = box[0], box[1]
    return mask[top:bottom, left:right], (x + left, y + top, x + right, y + bottom)


def moved(
    mask: NDArray[np.bool_], to_xy: tuple[int, int], size: tuple[int, int]
) -> tuple[NDArray[np.bool_], Box] | None:
    """A crop put with its upper left corner at `to_xy`, cut to the picture of `size` (width, height)."""
    x, y = to_xy
    h, w = mask.shape
    x0, y0, x1, y1 = max(0, x), max(0, y), min(size[0], x + w), min(size[1], y + h)
    if x0 >= x1 or y0 >= y1:
        return None
    return tight(mask[y0 - y : y1 - y, x0 - x : x1 - x], (x0, y0, x1, y1))


def union(seen: Panoptic, detections: Sequence[int]) -> tuple[Segment, NDArray[np.bool_]]:
    """One segment of one or more detections, of the class of the largest, and its mask within its box."""
    if len(detections) == 1:
        only = seen.segments[detections[0]]
        x0, y0, x1, y1 = only.box_xyxy
        return only, seen.id_map[y0:y1, x0:x1] == detections[0] + 1
    parts = [seen.segments[j] for j in detections]
    boxes = np.array([p.box_xyxy for p in parts])
    x0, y0, x1, y1 = (*map(int, boxes[:, :2].min(0)), *map(int, boxes[:, 2:].max(0)))
    mask = np.isin(seen.id_map[y0:y1, x0:x1], np.array(detections) + 1)
    largest = max(parts, key=lambda p: p.area_px)
    return Segment(largest.class_id, largest.score, sum(p.area_px for p in parts), (x0, y0, x1, y1)), mask


def renumbered(seen: Panoptic, owner: dict[int, int]) -> NDArray[np.uint16]:
    """The network's id map with `owner[detection]` instead of its own numbers, 0 where a detection has no owner."""
    table = np.zeros(max(256, len(seen.segments) + 1), np.uint16)
    for detection, number in owner.items():
        table[detection + 1] = number
    if len(table) > 256:
        return table[seen.id_map]
    return np.asarray(cv2.LUT(seen.id_map.astype(np.uint8), table), np.uint16)

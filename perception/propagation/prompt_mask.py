"""What a prompt points at, as a mask: what the network or a track has there already, else GrabCut on the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from perception.errors import PromptError
from perception.opencv import cv2
from perception.propagation.grabcut import Box, Mask, Place, Point, cut_box, cut_points, placed
from perception.types import VOID, Frame, Prompt, Scene

LEAST_AREA = 16
"""Smallest thing that can be followed [mask px]."""
MOST_POINTS = 16
"""Of one prompt: each may take a search of the labels."""
FITTING_IOU = 0.5
"""How well the box of a known thing must fit a box prompt to be what is meant."""
SMALL_PART = 0.1
"""A region of labels that is larger than this part of the picture is no thing that a point means."""


def mask_of_prompt(prompt: Prompt, frame: Frame, scene: Scene) -> Mask:
    """What is pointed at: (h, w) of the scene's masks, at least LEAST_AREA pixels. Equal prompts give equal masks.

    Raises:
        PromptError: not exactly one of points, box and mask; not finite; outside the image; nothing, too little or
            the whole image is meant.
    """
    _check_one_kind(prompt)
    if prompt.mask is not None:
        mask = _scaled(prompt.mask, frame, scene)
    elif prompt.box_xyxy is not None:
        mask = _of_box(_mask_box(prompt.box_xyxy, frame, scene), frame, scene)
    else:
        mask = _of_points([_mask_point(point, frame, scene) for point in prompt.points], frame, scene)
    return _checked_area(mask)


def _check_one_kind(prompt: Prompt) -> None:
    given = [
        name
        for name, value in (("points", prompt.points or None), ("box", prompt.box_xyxy), ("mask", prompt.mask))
        if value is not None
    ]
    if len(prompt.points) > MOST_POINTS:
        raise PromptError(f"a prompt of {len(prompt.points)} points: at most {MOST_POINTS}; a box says more")
    if len(given) != 1:
        raise PromptError(f"a prompt of {' and '.join(given) or 'nothing'}: give one of points, box and mask")


def _checked_area(mask: Mask) -> Mask:
    area = int(np.count_nonzero(mask))
    if area == mask.size:
        raise PromptError("the prompt means the whole image: point at one thing in it")
    if area < LEAST_AREA:
        raise PromptError(f"the prompt means {area} pixels of the mask, at least {LEAST_AREA}: too small to follow")
    return mask


def _scaled(mask: Mask, frame: Frame, scene: Scene) -> Mask:
    """A mask of the whole frame, at the size of the scene's masks; one of that size is as a subscriber has it."""
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype != np.bool_:
        raise PromptError(f"a mask of shape {mask.shape} and {mask.dtype}: (height, width) of bool, all of the frame")
    if mask.shape != scene.labels.shape:
        _check_ratio(mask, frame)
    if not mask.any():
        raise PromptError("the mask is empty: nothing to follow")
    if mask.all():
        raise PromptError("the prompt means the whole image: point at one thing in it")
    size = scene.labels.shape[::-1]
    return cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).view(np.bool_)


def _check_ratio(mask: Mask, frame: Frame) -> None:
    """The network's masks have a ratio of their own, to which every camera's frames are stretched."""
    (rows, columns), (height, width) = mask.shape, frame.image.shape[:2]
    if not math.isclose(columns / rows, width / height, rel_tol=0.05):
        told = f"a mask of {columns}x{rows}: it must have the frame's ratio of width to height, {width}:{height}"
        raise PromptError(told)


def _mask_point(point: Point, frame: Frame, scene: Scene) -> Point:
    """The point in mask pixels."""
    x, y = point
    (height, width), (rows, columns) = frame.image.shape[:2], scene.labels.shape
    if not (math.isfinite(x) and math.isfinite(y)):
        raise PromptError(f"point {x:g},{y:g}: not a number of pixels")
    if not (0 <= x < width and 0 <= y < height):
        raise PromptError(f"point {x:g},{y:g} is outside the image, which is {width}x{height}")
    return x * columns / width, y * rows / height


def _mask_box(box: Box, frame: Frame, scene: Scene) -> Box:
    """The part of the box that is in the image, in mask pixels."""
    told = ",".join(f"{value:g}" for value in box)
    (height, width), (rows, columns) = frame.image.shape[:2], scene.labels.shape
    if not all(map(math.isfinite, box)):
        raise PromptError(f"box {told}: not a number of pixels")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise PromptError(f"box {told}: x0,y0,x1,y1 with x0 < x1 and y0 < y1")
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if not (x0 < x1 and y0 < y1):
        raise PromptError(f"box {told} is outside the image, which is {width}x{height}")
    sx, sy = columns / width, rows / height
    found = (x0 * sx, y0 * sy, x1 * sx, y1 * sy)
    if (found[2] - found[0]) * (found[3] - found[1]) < LEAST_AREA:
        raise PromptError(f"box {told} is less than {LEAST_AREA} pixels of the mask: too small to follow")
    return found


# -- boxes -------------------------------------------------------------------------------------------------------


def _of_box(box: Box, frame: Frame, scene: Scene) -> Mask:
    if (track := _best_fit(box, _tracks(scene))) is not None:
        return placed(*track, scene)
    if (region := _best_fit(box, _regions_near(box, scene))) is not None:
        # things of one class that touch are one region: the box says where the one that is meant ends
        return placed(*region, scene) & _filled(box, scene)
    return cut_box(box, frame, scene)


def _best_fit(box: Box, known: Iterable[tuple[Box, Mask, Place]]) -> tuple[Mask, Place] | None:
    """The known thing, and its place, whose box fits best; None where none fits well."""
    best, fit = None, FITTING_IOU
    for found, part, at in known:
        if (iou := _iou(box, found)) >= fit:
            best, fit = (part, at), iou
    return best


def _tracks(scene: Scene) -> Iterator[tuple[Box, Mask, Place]]:
    """Every visible track: its box, and its mask with the place of that."""
    for position, track in enumerate(scene.tracks[: int(scene.id_map.max(initial=0))], start=1):
        x0, y0, x1, y1 = track.box_xyxy
        part = scene.id_map[y0:y1, x0:x1] == position
        if part.any():
            yield (x0, y0, x1, y1), part, (x0, y0)


def _regions_near(box: Box, scene: Scene) -> Iterator[tuple[Box, Mask, Place]]:
    """Every connected region of one label that could fit the box.

    Only looked for as far around the box as the box is large: one that reaches farther does not fit.
    """
    height, width = scene.labels.shape
    x0, y0, x1, y1 = (round(value) for value in box)
    x0, x1 = max(0, 2 * x0 - x1), min(width, 2 * x1 - x0)
    y0, y1 = max(0, 2 * y0 - y1), min(height, 2 * y1 - y0)
    window = scene.labels[y0:y1, x0:x1]
    for label in np.unique(window):
        if label == VOID:
            continue
        count, parts, stats, _ = cv2.connectedComponentsWithStats((window == label).view(np.uint8), connectivity=8)
        for part in range(1, count):
            left, top, across, down, area = (int(value) for value in stats[part])
            if area >= LEAST_AREA:
                found = (x0 + left, y0 + top, x0 + left + across, y0 + top + down)
                yield found, parts == part, (x0, y0)


def _iou(a: Box, b: Box) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = across * down
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _filled(box: Box, scene: Scene) -> Mask:
    """All pixels that the box touches."""
    mask = np.zeros(scene.labels.shape, np.bool_)
    mask[math.floor(box[1]) : math.ceil(box[3]), math.floor(box[0]) : math.ceil(box[2])] = True
    return mask


# -- points ------------------------------------------------------------------------------------------------------


def _of_points(points: list[Point], frame: Frame, scene: Scene) -> Mask:
    columns, rows = (np.array([int(point[axis]) for point in points]) for axis in (0, 1))
    positions = scene.id_map[rows, columns]
    if positions.all():
        return np.isin(scene.id_map, positions)
    regions = [_small_region(scene, x, y) for x, y in zip(columns.tolist(), rows.tolist(), strict=True)]
    found = [region for region in regions if region is not None]
    if len(found) == len(regions):
        return np.logical_or.reduce(found)
    return cut_points(points, frame, scene)


def _small_region(scene: Scene, x: int, y: int) -> Mask | None:
    """The connected region of the label under a point; None where it is void or too large to be one thing."""
    label = scene.labels[y, x]
    if label == VOID:
        return None
    alike = (scene.labels == label).view(np.uint8)
    parts = cv2.connectedComponents(alike, connectivity=8)[1]
    region = parts == parts[y, x]
    return region if LEAST_AREA <= np.count_nonzero(region) <= SMALL_PART * region.size else None

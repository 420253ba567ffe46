"""What a prompt points at, as a mask: what the network or a track has there already, else GrabCut on the picture.

GrabCut: Rother, Kolmogorov and Blake, "GrabCut: interactive foreground extraction using iterated graph cuts",
SIGGRAPH 2004, as OpenCV has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from perception.errors import PromptError
from perception.opencv import cv2
from perception.types import VOID, Frame, Prompt, Scene

LEAST_AREA = 16
"""Smallest thing that can be followed [mask px]."""
MOST_POINTS = 16
"""Of one prompt: each may take a search of the labels."""
FITTING_IOU = 0.5
"""How well the box of a known thing must fit a box prompt to be what is meant."""
SMALL_PART = 0.1
"""A region of labels that is larger than this part of the picture is no thing that a point means."""
CUT_SIDE = 160
"""Longer side of the picture that GrabCut works on [px]: bounds its time."""
_CUT_ROUNDS = 2
_MARGIN = 0.3  # of the box's sides, around it: what GrabCut learns the background from
_REACH = 0.16  # of the mask's height: how far from a point its thing may extend, where nothing else says it
_DISC = 0.012  # of the mask's height: around a point, all is thing
_CORE = 0.65  # of a box's sides: the ellipse in its middle that is taken for thing; measured, 0 costs 0.1 of IoU

Mask = NDArray[np.bool_]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
Place = tuple[int, int]  # x, y of an upper left corner


def mask_of_prompt(prompt: Prompt, frame: Frame, scene: Scene) -> Mask:
    """What is pointed at: (h, w) of the scene's masks, at least LEAST_AREA pixels. Equal prompts give equal masks.

    Raises:
        PromptError: not exactly one of points, box and mask; not finite; outside the image; nothing, too little or
            the whole image is meant.
    """
    _check_one_kind(prompt)
    shape = scene.labels.shape
    if prompt.mask is not None:
        mask = _scaled(prompt.mask, (shape[0], shape[1]))
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


def _scaled(mask: Mask, shape: tuple[int, int]) -> Mask:
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype != np.bool_:
        raise PromptError(f"a mask of shape {mask.shape} and {mask.dtype}: (height, width) of bool, all of the frame")
    if not math.isclose(mask.shape[1] / mask.shape[0], shape[1] / shape[0], rel_tol=0.05):
        size = f"{mask.shape[1]}x{mask.shape[0]}"
        raise PromptError(f"a mask of {size}: it must have the frame's ratio of width to height, {shape[1]}:{shape[0]}")
    if not mask.any():
        raise PromptError("the mask is empty: nothing to follow")
    if mask.all():
        raise PromptError("the prompt means the whole image: point at one thing in it")
    scaled = cv2.resize(mask.view(np.uint8), (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return scaled.view(np.bool_)


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
        return _placed(*track, scene)
    if (region := _best_fit(box, _regions_near(box, scene))) is not None:
        # things of one class that touch are one region: the box says where the one that is meant ends
        return _placed(*region, scene) & _filled(box, scene)
    return _cut_box(box, frame, scene)


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


def _placed(part: Mask, at: Place, scene: Scene) -> Mask:
    """A part of the picture in an otherwise empty mask."""
    mask = np.zeros(scene.labels.shape, np.bool_)
    mask[at[1] : at[1] + part.shape[0], at[0] : at[0] + part.shape[1]] = part
    return mask


def _filled(box: Box, scene: Scene) -> Mask:
    """All pixels that the box touches."""
    mask = np.zeros(scene.labels.shape, np.bool_)
    mask[math.floor(box[1]) : math.ceil(box[3]), math.floor(box[0]) : math.ceil(box[2])] = True
    return mask


def _cut_box(box: Box, frame: Frame, scene: Scene) -> Mask:
    """GrabCut within the box, whose middle is thing and whose outside is not."""
    window = _window(box, _MARGIN, scene)
    scale = _cut_scale(window)
    x0, y0, x1, y1 = (round((value - window[i % 2]) * scale) for i, value in enumerate(box))
    shape = _cut_shape(window, scale)
    seeds = np.full(shape, cv2.GC_BGD, np.uint8)
    seeds[y0:y1, x0:x1] = cv2.GC_PR_FGD
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    seeds[np.hypot((2 * x - x0 - x1) / max(1, x1 - x0), (2 * y - y0 - y1) / max(1, y1 - y0)) < _CORE] = cv2.GC_FGD
    return _uncut(_largest(_grabcut(frame, scene, window, seeds)), window, scene)


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
    return _cut_points(points, frame, scene)


def _small_region(scene: Scene, x: int, y: int) -> Mask | None:
    """The connected region of the label under a point; None where it is void or too large to be one thing."""
    label = scene.labels[y, x]
    if label == VOID:
        return None
    alike = (scene.labels == label).view(np.uint8)
    parts = cv2.connectedComponents(alike, connectivity=8)[1]
    region = parts == parts[y, x]
    return region if LEAST_AREA <= np.count_nonzero(region) <= SMALL_PART * region.size else None


def _cut_points(points: list[Point], frame: Frame, scene: Scene) -> Mask:
    """GrabCut around the points, as far as a thing may extend, and what of it hangs together with a point."""
    height = scene.labels.shape[0]
    reach = _REACH * height
    (left, top), (right, bottom) = np.min(points, axis=0) - reach, np.max(points, axis=0) + reach
    window = _window((left, top, right, bottom), 0.0, scene)
    scale = _cut_scale(window)
    shape = _cut_shape(window, scale)
    seeds = np.full(shape, cv2.GC_BGD, np.uint8)
    centres = [(round((x - window[0]) * scale), round((y - window[1]) * scale)) for x, y in points]
    for part, value in ((0.95, cv2.GC_PR_BGD), (0.35, cv2.GC_PR_FGD), (_DISC / _REACH, cv2.GC_FGD)):
        for centre in centres:
            cv2.circle(seeds, centre, max(1, round(part * reach * scale)), value, cv2.FILLED)
    cut = _grabcut(frame, scene, window, seeds)
    parts = cv2.connectedComponents(cut.view(np.uint8), connectivity=8)[1]
    touched = np.unique(parts[seeds == cv2.GC_FGD])
    return _uncut(np.isin(parts, touched[touched > 0]), window, scene)


# -- GrabCut -----------------------------------------------------------------------------------------------------


def _window(box: Box, margin: float, scene: Scene) -> tuple[int, int, int, int]:
    """The box and a margin around it, within the picture, in whole mask pixels."""
    height, width = scene.labels.shape
    across, down = margin * (box[2] - box[0]) + 2, margin * (box[3] - box[1]) + 2
    return (
        max(0, math.floor(box[0] - across)),
        max(0, math.floor(box[1] - down)),
        min(width, math.ceil(box[2] + across)),
        min(height, math.ceil(box[3] + down)),
    )


def _cut_scale(window: tuple[int, int, int, int]) -> float:
    return min(1.0, CUT_SIDE / max(window[2] - window[0], window[3] - window[1]))


def _cut_shape(window: tuple[int, int, int, int], scale: float) -> tuple[int, int]:
    return max(1, round((window[3] - window[1]) * scale)), max(1, round((window[2] - window[0]) * scale))


def _grabcut(frame: Frame, scene: Scene, window: tuple[int, int, int, int], seeds: NDArray[np.uint8]) -> Mask:
    """What is thing in the window, at the seeds' size; the seeds alone where they leave nothing to be cut."""
    (height, width), (rows, columns) = frame.image.shape[:2], scene.labels.shape
    x0, x1 = _span(window[0] * width / columns, window[2] * width / columns, width)
    y0, y1 = _span(window[1] * height / rows, window[3] * height / rows, height)
    is_thing = np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if is_thing.all() or not is_thing.any():
        return is_thing
    cv2.setRNGSeed(1)  # its k-means begins at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cut = seeds.copy()
    try:
        picture = cv2.resize(frame.image[y0:y1, x0:x1], seeds.shape[::-1], interpolation=cv2.INTER_AREA)
        cv2.grabCut(picture, cut, None, *models, _CUT_ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error as error:
        raise PromptError("nothing can be cut out of the picture there: give a mask") from error
    return np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _span(begin: float, end: float, size: int) -> tuple[int, int]:
    """In whole pixels, at least one: a camera's pixels may be larger than the mask's."""
    first = min(round(begin), size - 1)
    return first, max(round(end), first + 1)


def _largest(mask: Mask) -> Mask:
    """Its largest connected part."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    return parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else mask


def _uncut(cut: Mask, window: tuple[int, int, int, int], scene: Scene) -> Mask:
    """What was cut, at its place and size in the picture."""
    size = (window[2] - window[0], window[3] - window[1])
    part = cv2.resize(cut.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return _placed(part.view(np.bool_), window[:2], scene)

"""GrabCut: what stands out in a part of the picture, where neither the network nor a track knows anything.

Rother, Kolmogorov and Blake, "GrabCut: interactive foreground extraction using iterated graph cuts", SIGGRAPH 2004, as
OpenCV has it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from perception.errors import PromptError
from perception.opencv import cv2
from perception.types import Frame, Scene

CUT_SIDE = 160
"""Longer side of the picture that GrabCut works on [px]: bounds its time."""
_CUT_ROUNDS = 2
_MARGIN = 0.3  # of the box's sides, around it: what GrabCut learns the background from
_REACH = 0.16  # of the mask's height: how far from a point its thing may extend, where nothing else says it
_DISC = 0.012  # of the mask's height: around a point, all is thing
_CORE = 0.65  # of a box's sides: the ellipse in its middle that is taken for thing; measured, 0 costs 0.1 of IoU

Mask = NDArray[np.bool_]
Point = tuple[float, float]  # x, y [mask px]
Box = tuple[float, float, float, float]
Place = tuple[int, int]  # x, y of an upper left corner


def cut_box(box: Box, frame: Frame, scene: Scene) -> Mask:
    """GrabCut within the box, whose middle is thing and whose outside is not.

    Raises:
        PromptError: nothing can be cut out of the picture there.
    """
    window = _window(box, _MARGIN, scene)
    scale = _cut_scale(window)
    x0, y0, x1, y1 = (round((value - window[i % 2]) * scale) for i, value in enumerate(box))
    shape = _cut_shape(window, scale)
    seeds = np.full(shape, cv2.GC_BGD, np.uint8)
    seeds[y0:y1, x0:x1] = cv2.GC_PR_FGD
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    seeds[np.hypot((2 * x - x0 - x1) / max(1, x1 - x0), (2 * y - y0 - y1) / max(1, y1 - y0)) < _CORE] = cv2.GC_FGD
    return _uncut(_largest(_grabcut(frame, scene, window, seeds)), window, scene)


def cut_points(points: list[Point], frame: Frame, scene: Scene) -> Mask:
    """GrabCut around the points, as far as a thing may extend, and what of it hangs together with a point.

    Raises:
        PromptError: nothing can be cut out of the picture there.
    """
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


def placed(part: Mask, at: Place, scene: Scene) -> Mask:
    """A part of the picture in an otherwise empty mask."""
    mask = np.zeros(scene.labels.shape, np.bool_)
    mask[at[1] : at[1] + part.shape[0], at[0] : at[0] + part.shape[1]] = part
    return mask


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
    return placed(part.view(np.bool_), window[:2], scene)

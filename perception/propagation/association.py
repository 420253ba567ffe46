"""Which of the things that the network sees now is which of those that are followed: three looks, each laxer.

1. where a carried mask overlaps a seen one (SAM 3's rules, models of Carion et al. 2025: matched above an IoU, greedy
   there, by assignment here); an overlap counts for more where both look alike, for less where not;
2. where the motion of a track expects a box, for what is too small or too briefly known to be carried;
3. re-identification: what looks like a hidden track, of its class and size, where it can have got to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.propagation.matching import match
from perception.propagation.motion import box_iou
from perception.propagation.tracks import LiveTrack
from perception.types import VOID

LEAST_MASK_IOU = 0.3
LEAST_BOX_IOU = 0.25
OTHER_CLASS = 0.75  # an overlap counts for so much where the classes differ: the network wavers between some
SLACK_PX = 3.0  # boxes are widened by it, so that specks of a few pixels can meet
LEAST_ALIKE = 0.8  # cosine of looks, plus what nearness adds
USUALLY_ALIKE = 0.6  # cosine of looks at which an overlap counts for what it is
LOOK_SHARE = 0.3  # of an overlap that it gains or loses for a cosine of 1 above or below
REACH = 1.0  # of its diagonal that a hidden thing can be away from where its motion expects it, plus
REACH_A_SECOND = 1.5  # of its diagonal for every second hidden
SIZE_FACTOR = 2.2


@dataclass(frozen=True, eq=False)
class Detections:
    """What the network saw, in the terms that tracks are compared in."""

    boxes: NDArray[np.float64]  # (n, 4) [mask px]
    classes: NDArray[np.int64]  # (n,)
    cells: NDArray[np.int64]  # (n,) area on the grid of carried masks
    looks: NDArray[np.float32]  # (n, d) of unit length


@dataclass(frozen=True, eq=False)
class Known:
    """The tracks in the same terms."""

    boxes: NDArray[np.float64]  # (m, 4) expected now
    classes: NDArray[np.int64]
    cells: NDArray[np.int64]  # of the carried mask; 0 where nothing is carried
    looks: NDArray[np.float32]
    hidden_s: NDArray[np.float64]  # (m,) since it was last visible; 0 for visible ones


def associate(known: Known, seen: Detections, common: NDArray[np.int64]) -> dict[int, int]:
    """Detection -> track, as places in `seen` and `known`.

    Args:
        common: (m, n) cells that a track's carried mask and a detection share.
    """
    owner: dict[int, int] = {}
    fitting = _fitting(known, seen)
    is_same = known.classes[:, None] == seen.classes[None]
    is_open = is_same | (known.classes[:, None] == VOID)
    union = known.cells[:, None] + seen.cells[None] - common
    overlap = common / np.maximum(union, 1) * np.where(is_open, 1.0, OTHER_CLASS)
    _settle(owner, overlap * fitting, LEAST_MASK_IOU)
    grown = np.array([-SLACK_PX, -SLACK_PX, SLACK_PX, SLACK_PX])
    near = box_iou(known.boxes + grown, seen.boxes + grown) * is_same * (known.hidden_s < 0.4)[:, None]
    _settle(owner, near * fitting, LEAST_BOX_IOU)
    if known.hidden_s.any():
        _settle(owner, reidentification(known, seen) * is_same, LEAST_ALIKE)
    return owner


def _fitting(known: Known, seen: Detections) -> NDArray[np.float64]:
    """(m, n) factor of an overlap: 1 where both look usually alike, or where one has no look."""
    alike = known.looks @ seen.looks.T
    has_looks = np.any(known.looks, axis=1, keepdims=True) & np.any(seen.looks, axis=1)
    return 1 + LOOK_SHARE * (np.where(has_looks, alike, USUALLY_ALIKE) - USUALLY_ALIKE)


def reidentification(known: Known, seen: Detections) -> NDArray[np.float64]:
    """(m, n) how much a detection looks like a hidden track, 0 where it can't be it: too far off, or another size."""
    alike = known.looks @ seen.looks.T
    centres = [(b[:, None, :2] + b[:, None, 2:]) / 2 for b in (known.boxes, seen.boxes)]
    distance = np.linalg.norm(centres[0] - centres[1].transpose(1, 0, 2), axis=2)
    sizes = [np.sqrt(np.prod(b[:, 2:] - b[:, :2], 1)) for b in (known.boxes, seen.boxes)]
    diagonal = np.maximum(sizes[0], 6.0)[:, None] * 1.5
    reach = diagonal * (REACH + REACH_A_SECOND * known.hidden_s[:, None])
    factor = sizes[0][:, None] / np.maximum(sizes[1][None], 1e-9)
    fits = (factor < SIZE_FACTOR) & (factor > 1 / SIZE_FACTOR) & (distance < reach) & (known.hidden_s > 0)[:, None]
    # among those that fit, the nearer one
    return np.where(fits, alike - 0.15 * distance / reach + 0.1, 0.0)


def _settle(owner: dict[int, int], likeness: NDArray[np.float64], least: float) -> None:
    """Add the best assignment among those tracks and detections that are still free."""
    likeness = likeness.copy()
    likeness[list(owner.values())] = 0
    likeness[:, list(owner)] = 0
    for i, j in match(likeness, least):
        owner[j] = i


def known_of(tracks: Sequence[LiveTrack], cells: NDArray[np.int64], stamp_ns: int, depth: int) -> Known:
    """The tracks' side of a comparison, of classes as the network names them; `cells`: areas of their carried masks."""
    carriages = [t.carriage for t in tracks if t.carriage]
    boxes = np.array([c.motion.at(stamp_ns) for c in carriages], np.float64).reshape(-1, 4)
    classes = np.array([c.class_seen for c in carriages], np.int64)
    looks = np.array([c.pointer for c in carriages], np.float32).reshape(-1, depth)
    hidden = [0.0 if c.hidden_since_ns is None else (stamp_ns - c.hidden_since_ns) / 1e9 for c in carriages]
    return Known(boxes, classes, cells, looks, np.array(hidden))

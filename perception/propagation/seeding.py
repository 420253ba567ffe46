"""Masks from before a restart, put where they are in the first frame after it: the carrier's memory did not survive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception.looks import Looks
from perception.opencv import cv2
from perception.propagation.association import REACH, REACH_A_SECOND
from perception.propagation.carrier import CELL, Carried
from perception.propagation.tracks import LiveTrack

LEAST_ALIKE = 0.6  # cosine of looks
FAR = 0.15  # of likeness that a place at the end of its reach loses, as in re-identification
QUALITY = 0.51  # of a mask that lies where its thing seems to be: just good enough to be remembered


@dataclass(frozen=True, eq=False)
class Seed:
    """A prompted thing that only its last mask is known of."""

    track: LiveTrack
    mask: NDArray[np.bool_]  # (h, w) crop on the grid of carried masks
    stamp_ns: int  # of the frame it was made for


def sow(carried: Carried, seeds: Sequence[Seed], looks: Looks, stamp_ns: int) -> tuple[Carried, list[LiveTrack]]:
    """What the memory would say if it knew the seeds, and the tracks that are nowhere to be seen.

    Each mask goes where the look beneath it is most like the thing's pointer, near where its motion expects it.
    """
    masks, presence, quality = carried.masks.copy(), carried.presence.copy(), carried.quality.copy()
    missing: list[LiveTrack] = []
    for seed in seeds:
        slot = seed.track.carriage.slot if seed.track.carriage else None
        placed = None if slot is None else _placed(seed, looks, masks.shape[1:], stamp_ns)
        if slot is None or placed is None:
            missing.append(seed.track)
            continue
        masks *= 1 - placed
        masks[slot] = placed
        presence[slot], quality[slot] = 1.0, QUALITY
    return replace(carried, masks=masks, presence=presence, quality=quality), missing


def _placed(seed: Seed, looks: Looks, size: tuple[int, ...], stamp_ns: int) -> NDArray[np.float32] | None:
    """(h, w) of `size`: 1 where the thing is now; None where nothing near looks like it."""
    carriage = seed.track.carriage
    assert carriage is not None
    if len(carriage.pointer) != looks.depth:
        return None
    rows, columns = seed.mask.shape
    likeness = cv2.resize(looks.like(carriage.pointer), size[::-1], interpolation=cv2.INTER_LINEAR)
    padded = np.pad(np.asarray(likeness, np.float32), ((rows // 2,) * 2, (columns // 2,) * 2), constant_values=-1.0)
    kernel = np.asarray(seed.mask / np.count_nonzero(seed.mask), np.float32)
    alike = np.asarray(cv2.matchTemplate(padded, kernel, cv2.TM_CCORR))
    cost = _distance(seed, alike.shape, stamp_ns)
    y, x = np.unravel_index(int(np.where(cost <= 1, alike - FAR * cost, -np.inf).argmax()), alike.shape)
    placed = np.zeros(padded.shape, np.float32)
    placed[y : y + rows, x : x + columns] = seed.mask
    placed = placed[rows // 2 : rows // 2 + size[0], columns // 2 : columns // 2 + size[1]]
    if cost[y, x] > 1 or not placed.any():
        return None
    look = looks.of(placed.astype(np.int64), 1)[0]
    return placed if float(look @ carriage.pointer) >= LEAST_ALIKE else None


def _distance(seed: Seed, shape: tuple[int, ...], stamp_ns: int) -> NDArray[np.float64]:
    """Distance of every place of the mask from the expected one, as a share of how far it can have got."""
    carriage = seed.track.carriage
    assert carriage is not None
    x0, y0, x1, y1 = (v / CELL for v in carriage.motion.at(stamp_ns))
    # a padded place (0, 0) puts the mask's middle on the picture's corner
    away_x = np.arange(shape[1])[None] - (x0 + x1) / 2
    away_y = np.arange(shape[0])[:, None] - (y0 + y1) / 2
    diagonal = 1.5 * max(6.0 / CELL, float(np.sqrt((x1 - x0) * (y1 - y0))))
    reach = diagonal * (REACH + REACH_A_SECOND * max(0, stamp_ns - seed.stamp_ns) / 1e9)
    return np.hypot(away_x, away_y) / reach

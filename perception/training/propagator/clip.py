"""A short clip with exact ids: what the learned propagator is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2

SIZE = (640, 352)  # width, height of the network's input, as the node runs it
MASK_SIZE = (320, 176)  # ids are kept at 1/2, so that masks at 1/4 have soft edges


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames in order, and which object each pixel belongs to."""

    images: NDArray[np.uint8]  # (n, 352, 640, 3) RGB
    ids: NDArray[np.uint8]  # (n, 176, 320) 0 = nothing that is followed, k = object k of at most SLOTS
    stamps_s: NDArray[np.float32]  # (n,) [s]


def small_ids(ids: NDArray) -> NDArray:
    """An id map at MASK_SIZE, nearest."""
    return np.asarray(cv2.resize(ids, MASK_SIZE, interpolation=cv2.INTER_NEAREST))


def largest_first(maps: NDArray[np.uint16], most: int, least_px: int) -> NDArray[np.uint8]:
    """(n, h, w) ids of any size -> 1..most, given to the objects that are largest in the frame where they are so.

    Objects that never have `least_px` pixels are dropped.
    """
    counts = np.stack([np.bincount(m.ravel(), minlength=int(maps.max()) + 1) for m in maps]).max(0)
    counts[0] = 0
    order = [int(i) for i in np.argsort(-counts) if counts[i] >= least_px][:most]
    table = np.zeros(len(counts), np.uint8)
    table[order] = np.arange(1, len(order) + 1)
    return table[maps]

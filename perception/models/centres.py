"""Centres and offsets to instances, as Panoptic-DeepLab does it (Cheng et al. 2020, section 3.3).

Two things its published code leaves to chance are fixed here: of a plateau of equal heat one cell is the centre, and
the hottest k are the hottest k, whichever share the last one's heat. The lower index wins a tie.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2

_MANY = 500  # peaks; among so many are plateaus, and a table of all pairs would be larger than the map


class Centres(NamedTuple):
    """K centres, the hottest first."""

    cells: NDArray[np.int32]  # (K, 2) row and column
    heat: NDArray[np.float32]  # (K,)


def find_centres(heat: NDArray[np.float32], threshold: float, kernel: int, most: int) -> Centres:
    """Local maxima of a heat map.

    Args:
        heat: (h, w).
        threshold: centres are hotter than this.
        kernel: odd; a centre is the hottest cell of the window of this size around it [cells].
        most: how many are kept.
    """
    peaks = (heat >= cv2.dilate(heat, np.ones((kernel, kernel), np.uint8))) & (heat > threshold)
    at = np.flatnonzero(peaks)
    if _are_near(at, heat.shape[1], kernel // 2):
        at = at[_first_of_each_plateau(peaks, kernel // 2)]
    values = heat.reshape(-1)[at]
    order = np.argsort(-values, kind="stable")[:most]
    cells = np.stack(np.divmod(at[order], heat.shape[1]), 1).astype(np.int32)
    return Centres(cells, values[order])


def _are_near(at: NDArray[np.intp], width: int, radius: int) -> bool:
    """Whether any two peaks lie within `radius` of each other, which only those of one plateau can."""
    if len(at) > _MANY:
        return True
    rows, columns = np.divmod(at, width)
    near = np.abs(rows[:, None] - rows) <= radius
    near &= np.abs(columns[:, None] - columns) <= radius
    return int(np.count_nonzero(near)) > len(at)


def _first_of_each_plateau(peaks: NDArray[np.bool_], radius: int) -> NDArray[np.intp]:
    """Places, among the peaks in row order, of the first of each group.

    Peaks within `radius` of each other are equally hot, or one of them were none: a square of that size around each
    makes them one region.
    """
    grown = cv2.dilate(peaks.view(np.uint8), np.ones((max(1, radius), max(1, radius)), np.uint8))
    _, regions = cv2.connectedComponents(grown, connectivity=8, ltype=cv2.CV_32S)
    return np.sort(np.unique(regions[peaks], return_index=True)[1])


def assign(
    centres: Centres, offset: NDArray[np.float32], at: NDArray[np.intp], unit: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For cells p: argmin over k of |c_k - (p + offset(p))|, and that distance.

    Args:
        centres: at least one.
        offset: (2, h, w), (dy, dx) [px].
        at: (P,) flat indices of the cells.
        unit: size of a cell [px].

    Returns:
        (P,) index into `centres` and (P,) distance [px]; the first centre wins a tie.
    """
    rows, columns = np.divmod(at, offset.shape[2])
    dy, dx = offset.reshape(2, -1)[:, at]
    target = np.stack((rows * unit + dy, columns * unit + dx), 1).astype(np.float32)
    points = (centres.cells * unit).astype(np.float32)
    # |c|^2 - 2 c.t differs from |c - t|^2 by |t|^2, which is the same for every centre.
    nearest = np.argmin((points**2).sum(1) - 2 * (target @ points.T), 1).astype(np.int32)
    return nearest, np.hypot(*(points[nearest] - target).T)

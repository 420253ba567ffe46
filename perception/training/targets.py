"""What Panoptic-DeepLab learns from: centre heat and offsets of a map of instances (Cheng et al. 2020, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIGMA = 8.0  # [px] of the paper's 1025x2049 crops
SMALL = 64 * 64  # [px] instances below this weigh more in the semantic loss there
UNKNOWN = 65535  # in an instance map: a thing whose extent is not known; no loss there


class PanopticTargets(NamedTuple):
    """Targets on a grid of `stride` pixels; float32."""

    centre: NDArray[np.float32]  # (1, h/s, w/s) pixelwise maximum of one Gaussian an instance
    offset: NDArray[np.float32]  # (2, h/s, w/s) (dy, dx) from the cell's centre to the instance's [px]
    is_thing: NDArray[np.float32]  # (1, h/s, w/s) how much the offset there is to be learnt, 0 where not
    is_known: NDArray[np.float32]  # (1, h/s, w/s) 0 where it is not known whether a centre is there


def panoptic_targets(
    instances: NDArray[np.uint16],
    stride: int = 1,
    sigma: float = SIGMA,
    balance: float = 0.0,
    is_labelled: NDArray[np.bool_] | None = None,
) -> PanopticTargets:
    """Centres are the mean (y, x) of each instance's pixels, at full resolution whatever the stride.

    Args:
        instances: (h, w) 0 for stuff and void, UNKNOWN for crowds, else one number an instance.
        stride: size of a cell of the target grid [px].
        sigma: of the Gaussians, which end beyond 3 sigma + 1 [px].
        balance: a cell of an instance of n cells counts n^-balance in `is_thing`: at 0 every cell counts alike, at 1
            every instance, however small.
        is_labelled: (h, w) False where nothing is known, on ignored pixels and beyond the picture: there may be a thing
            there, so that no centre is not to be learnt either, and no offset is. None: True everywhere.
    """
    h, w = instances.shape
    ys = np.arange(h // stride, dtype=np.float32) * stride + (stride - 1) / 2
    xs = np.arange(w // stride, dtype=np.float32) * stride + (stride - 1) / 2
    middles = np.s_[stride // 2 :: stride, stride // 2 :: stride]
    cells = instances[middles][: len(ys), : len(xs)]
    is_known = cells != UNKNOWN
    if is_labelled is not None:
        is_cell_labelled = is_labelled[middles][: len(ys), : len(xs)]
        is_known &= is_cell_labelled
        cells = np.where(is_cell_labelled, cells, 0)
    centre = np.zeros((1, len(ys), len(xs)), np.float32)
    offset, is_thing = np.zeros((2, len(ys), len(xs)), np.float32), np.zeros((1, len(ys), len(xs)), np.float32)
    for number, (cy, cx) in centres_of_mass(instances).items():
        _draw(centre[0], ys - cy, xs - cx, sigma)
        rows, columns = np.nonzero(cells == number)
        offset[0, rows, columns] = cy - ys[rows]
        offset[1, rows, columns] = cx - xs[columns]
        is_thing[0, rows, columns] = max(1, len(rows)) ** -balance
    return PanopticTargets(centre, offset, is_thing, is_known[None].astype(np.float32))


def centres_of_mass(instances: NDArray[np.uint16]) -> dict[int, tuple[float, float]]:
    """Mean (y, x) of the pixels of each instance [px]; 0 and UNKNOWN are left out."""
    rows, columns = np.nonzero((instances > 0) & (instances != UNKNOWN))
    numbers, place = np.unique(instances[rows, columns], return_inverse=True)
    count = np.bincount(place, minlength=len(numbers))
    y = np.bincount(place, rows, len(numbers)) / np.maximum(count, 1)
    x = np.bincount(place, columns, len(numbers)) / np.maximum(count, 1)
    return {int(n): (float(a), float(b)) for n, a, b in zip(numbers, y, x, strict=True)}


def _draw(heat: NDArray[np.float32], dy: NDArray[np.float32], dx: NDArray[np.float32], sigma: float) -> None:
    """Maximum of `heat` and a Gaussian at distance (dy, dx), within its patch of 6 sigma + 3 pixels."""
    reach = 3 * round(sigma) + 1
    rows, columns = np.nonzero(np.abs(dy) <= reach)[0], np.nonzero(np.abs(dx) <= reach)[0]
    if not len(rows) or not len(columns):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    gaussian = np.exp(-(dy[rows, None] ** 2 + dx[None, columns] ** 2) / (2 * sigma**2))
    np.maximum(heat[window], gaussian, out=heat[window])

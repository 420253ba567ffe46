"""Stuff of too few pixels in a picture: most of it is a mistake, and each is a false segment (Cheng et al. 2020).

The paper makes it void. A hole in a class map serves nobody on a road, and one void pixel counts as a class of its own,
never right, in STQ: so it may also go to the stuff beside it, and stays where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from perception.models.card import Grouping
from perception.models.grouping import REFERENCE_AREA
from perception.opencv import cv2
from perception.types import VOID

ROUNDS = 6  # [px] how far what is beside it reaches into it; a blob of 100 px is filled after six


def settle_small_stuff(
    labels: NDArray[np.uint8], things: Iterable[int], kept: Iterable[int], grouping: Grouping
) -> None:
    """Change the pixels of stuff classes with fewer than `grouping.stuff_area` in a whole map (h, w), in place.

    Args:
        things: class indices that are countable, which stay.
        kept: stuff that stays however small.
    """
    least, things = round(grouping.stuff_area * labels.size / REFERENCE_AREA), list(things)
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel()
    small = (counts > 0) & (counts < least)
    small[[*things, *kept]] = False
    if not small.any():
        return
    is_small = small[labels]
    if grouping.small_stuff == "void":
        labels[is_small] = VOID
        return
    number = np.arange(1, 257).astype(np.uint8)  # class + 1; of VOID 0
    number[small] = number[things] = 0
    _join(labels, is_small, np.asarray(cv2.LUT(labels, number), np.uint8))


def _join(labels: NDArray[np.uint8], is_small: NDArray[np.bool_], stuff: NDArray[np.uint8]) -> None:
    """Give small stuff the class of the stuff beside it, of several the highest; what has none beside it stays.

    Args:
        stuff: (h, w) class + 1 of the stuff that stays, 0 elsewhere. Changed.
    """
    is_missing = is_small.copy()
    for _ in range(ROUNDS):
        np.copyto(stuff, cv2.dilate(stuff, np.ones((3, 3), np.uint8)), where=is_missing)
        is_missing &= stuff == 0
        if not is_missing.any():
            break
    np.copyto(labels, stuff - np.uint8(1), where=is_small & ~is_missing)

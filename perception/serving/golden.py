"""The frames that every engine must see alike: a few of the rendered drive, which needs no file and has any size."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered import RenderedDrive
from perception.opencv import cv2

SEED = 11
SIZE = (640, 360)  # width, height they are painted at [px]
APART = (0, 40, 80)  # indices of frames that have little in common,
IN_A_ROW = (81, 82, 83)  # and of those that follow the last one: for what is carried from frame to frame
FPS = 30.0


@cache
def _painted() -> tuple[NDArray[np.uint8], ...]:
    width, height = SIZE
    drive = RenderedDrive(seed=SEED, width=width, height=height, fps=FPS, truth=False)
    return tuple(frame.image for frame in drive.at((*APART, *IN_A_ROW)))


def golden_frames(size: tuple[int, int] = SIZE) -> list[NDArray[np.uint8]]:
    """(h, w, 3) RGB frames of a width and height: those apart, then those in a row."""
    if size == SIZE:
        return list(_painted())
    return [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8) for image in _painted()]

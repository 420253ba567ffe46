"""The frames that every engine must see alike: a few of the rendered drive, in `golden.jpg`, one below the other.

`python -m perception.serving.golden` paints them anew. They are shipped, for painting takes a second of all that Python
can do, and the node has frames to send.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.images import decode_image
from perception.opencv import cv2

FILE = Path(__file__).with_name("golden.jpg")
SEED = 11
SIZE = (640, 360)  # width, height they are painted at [px]
APART = (0, 40, 80)  # indices of frames that have little in common,
IN_A_ROW = (81, 82, 83)  # and of those that follow the last one: for what is carried from frame to frame
FPS = 30.0


@cache
def _shipped() -> tuple[NDArray[np.uint8], ...]:
    return tuple(np.split(decode_image(FILE.read_bytes(), FILE.name), len(APART) + len(IN_A_ROW)))


def golden_frames(size: tuple[int, int] = SIZE) -> list[NDArray[np.uint8]]:
    """(h, w, 3) RGB frames of a width and height: those apart, then those in a row."""
    if size == SIZE:
        return list(_shipped())
    return [cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.uint8) for image in _shipped()]


def paint() -> NDArray[np.uint8]:
    """(6 h, w, 3) RGB: what `golden.jpg` holds."""
    from perception.drives.rendered import RenderedDrive

    width, height = SIZE
    drive = RenderedDrive(seed=SEED, width=width, height=height, fps=FPS, truth=False)
    return np.concatenate([frame.image for frame in drive.at((*APART, *IN_A_ROW))])


if __name__ == "__main__":
    from perception.drives.pictures import encode_picture

    FILE.write_bytes(encode_picture(paint(), "jpeg", 90))

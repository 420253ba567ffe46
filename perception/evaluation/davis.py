"""DAVIS: clips with the masks of one or more objects of no class (Perazzi et al. 2016; Pont-Tuset et al. 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.evaluation.picture_headers import require_depth, require_upright
from perception.evaluation.segments import OTHER, SegmentMap
from perception.evaluation.truth import Truth, files_in, names_in
from perception.images import SUFFIXES
from perception.opencv import cv2
from perception.types import VOID

_VOID_COLOUR = (224 << 16) | (224 << 8) | 192  # of DAVIS' palette, index 255


class DavisFolder:
    """`Annotations/SEQUENCE/NAME.png`, as published; every object has the class VOID.

    A grey picture holds 0 and each object's number; 255 is the object where there is no other value (DAVIS 2016),
    else void. A coloured one (a palette, as in DAVIS 2017) holds a colour for each object.

    Raises:
        ConfigError: there are no annotations.
    """

    has_labels = False
    things: frozenset[int] = frozenset((VOID,))
    panoptic = things

    def __init__(self, root: Path) -> None:
        self._root = root / "Annotations"
        self.names = names_in(self._root, {".png"})
        if not self.names:
            raise ConfigError(f"{self._root}: no PNGs here; Annotations/SEQUENCE/00000.png is expected")

    def read(self, name: str) -> Truth:
        path = self._root / f"{name}.png"
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None or picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise ConfigError(f"{path}: can't be read as a picture of 8 bits")
        require_depth(path, (1, 8))  # one object of 1 bit is 255, as in DAVIS 2016
        return Truth(None, _segments(*_objects(picture.astype(np.uint8, copy=False))))


def davis_pictures(root: Path, truth: DavisFolder) -> dict[str, Path]:
    """The picture of each annotation; others are left out.

    Raises:
        ConfigError: one is missing or stored turned, or two have one name.
    """
    folder = root / "JPEGImages"
    pictures = files_in(folder, SUFFIXES)
    missing = [name for name in truth.names if name not in pictures]
    if missing:
        raise ConfigError(f"{folder}: no picture for the annotation {missing[0]!r} ({len(missing)} are missing)")
    for name in truth.names:
        require_upright(pictures[name])
    return {name: pictures[name] for name in truth.names}


def _objects(picture: NDArray[np.uint8]) -> tuple[NDArray[np.int64], int | None]:
    """(h, w) object of each pixel, 0 = none, and the value that is void."""
    if picture.ndim == 3:
        b, g, r = (picture[..., k].astype(np.int64) for k in range(3))
        return (r << 16) | (g << 8) | b, _VOID_COLOUR
    values = np.unique(picture)
    return picture.astype(np.int64), 255 if np.setdiff1d(values, (0, 255)).size else None


def _segments(objects: NDArray[np.int64], void: int | None) -> SegmentMap:
    """Segment 1 is what is of no object."""
    values = [v for v in np.unique(objects).tolist() if v not in (0, void)]
    ids = np.ones(objects.shape, np.int64)
    for k, value in enumerate(values, 2):
        ids[objects == value] = k
    if void is not None:
        ids[objects == void] = 0
    classes = np.array([OTHER] + [VOID] * len(values), np.int64)
    crowd = np.array([True] + [False] * len(values))
    return SegmentMap(ids, classes, crowd, np.ones(len(classes)), np.array([0, *values], np.int64))

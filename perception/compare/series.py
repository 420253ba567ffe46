"""Figures by frame, kept small: an hour of frames has to fit in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


class Series:
    """One figure a frame; NaN where there is none. Frames are given in order and may be left out."""

    def __init__(self) -> None:
        self._values = array("f")

    def put(self, frame: int, value: float) -> None:
        self._values.extend([NAN] * (frame - len(self._values)))
        self._values.append(value)

    def values(self, frames: int) -> NDArray[np.float32]:
        """(frames,)"""
        out = np.full(frames, NAN, np.float32)
        out[: len(self._values)] = np.frombuffer(self._values, np.float32) if self._values else 0
        return out


def runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    """Rising numbers as runs (first, last), both included."""
    out: list[tuple[int, int]] = []
    for frame in frames:
        if out and frame <= out[-1][1] + 1:
            out[-1] = (out[-1][0], frame)
        else:
            out.append((frame, frame))
    return out


def per_1000(count: float, frames: int) -> float:
    return 1000 * count / max(1, frames)


def quantiles(values: Sequence[float] | NDArray) -> tuple[float, float, float]:
    """p50, p90 and p99, linearly interpolated; NaN of nothing."""
    if not len(values):
        return (NAN, NAN, NAN)
    p50, p90, p99 = np.percentile(np.asarray(values, np.float64), (50, 90, 99))
    return float(p50), float(p90), float(p99)

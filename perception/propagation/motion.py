"""Where a box will be: constant velocity, smoothed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GAIN = 0.6  # of a new position, against the predicted one
VELOCITY_GAIN = 0.35
FADING_S = 1.0  # a velocity is believed for about so long without a sighting
FASTEST = 3.0  # of its own size a second in growth [log size / s]
SHORTEST_S = 1e-3
_MOST_GROWTH = 0.7  # of the logarithm of a size without a sighting

Four = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Course:
    """A motion's place and velocity: of x, y of the centre [px], log of width, log of height; the latter a second."""

    place: Four
    velocity: Four
    hits: int


@dataclass(eq=False)
class BoxMotion:
    """An alpha-beta filter of a box's centre and log size (Benedict and Bordner 1962), by time and not by frames.

    Args:
        box_xyxy: the first sighting [px].
        stamp_ns: when [ns].
    """

    box_xyxy: Four
    stamp_ns: int
    _place: Four = field(init=False)
    _velocity: Four = field(init=False, default=(0.0, 0.0, 0.0, 0.0))
    _hits: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        self._place = _centred(self.box_xyxy)

    def at(self, stamp_ns: int) -> Four:
        """The box that is expected then [px]."""
        cx, cy, lw, lh = self._predicted(stamp_ns)
        w, h = math.exp(lw), math.exp(lh)
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2

    def see(self, box_xyxy: Four, stamp_ns: int) -> None:
        """Correct by a sighting."""
        elapsed = (stamp_ns - self.stamp_ns) / 1e9
        measured = _centred(box_xyxy)
        if elapsed > SHORTEST_S:
            # not faded: that would lag, and the velocity be corrected beyond the truth
            expected = self._moved(min(elapsed, FADING_S))
            # the first two sightings are all that is known of its velocity
            gain, velocity_gain = (1.0, 1.0) if self._hits == 1 else (GAIN, VELOCITY_GAIN)
            rate = velocity_gain / max(elapsed, 1 / 60)
            errors = [m - e for m, e in zip(measured, expected, strict=True)]
            x, y, w, h = (e + gain * error for e, error in zip(expected, errors, strict=True))
            vx, vy, vw, vh = (v + rate * error for v, error in zip(self._velocity, errors, strict=True))
            self._place = x, y, w, h
            self._velocity = vx, vy, _within(vw, FASTEST), _within(vh, FASTEST)
            self.stamp_ns = stamp_ns
        else:
            self._place = measured
        self._hits += 1
        self.box_xyxy = box_xyxy

    def course(self) -> Course:
        """All that is known of it besides the last box."""
        return Course(self._place, self._velocity, self._hits)

    def take_up(self, course: Course) -> None:
        """Go on with what `course` has told, as of `box_xyxy` and `stamp_ns`."""
        self._place, self._velocity, self._hits = course.place, course.velocity, course.hits

    def _predicted(self, stamp_ns: int) -> Four:
        elapsed = max(0.0, (stamp_ns - self.stamp_ns) / 1e9)
        return self._moved(FADING_S * (1 - math.exp(-elapsed / FADING_S)))

    def _moved(self, believed: float) -> Four:
        """The place after so many seconds of its velocity."""
        (x, y, w, h), (vx, vy, vw, vh) = self._place, self._velocity
        growth = _within(vw * believed, _MOST_GROWTH), _within(vh * believed, _MOST_GROWTH)
        return x + vx * believed, y + vy * believed, w + growth[0], h + growth[1]


def _centred(box: Four) -> Four:
    x0, y0, x1, y1 = box
    return (x0 + x1) / 2, (y0 + y1) / 2, math.log(max(1.0, x1 - x0)), math.log(max(1.0, y1 - y0))


def _within(value: float, most: float) -> float:
    return min(most, max(-most, value))


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) boxes x0, y0, x1, y1 -> (n, m) intersection over union."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), 2)
    size_a, size_b = (np.prod(x[:, 2:] - x[:, :2], 1) for x in (a, b))
    return both / np.maximum(size_a[:, None] + size_b[None] - both, 1e-9)

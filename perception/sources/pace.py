"""How fast a drive is played: a speed, a pause, one frame at a time."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from perception.errors import SourceError

SLOWEST, FASTEST = 0.1, 10.0
"""Speeds that can be asked for; 1 is as recorded."""

_SLICE_S = 0.02


class Flag(Protocol):
    """What ends a wait."""

    @property
    def is_set(self) -> bool: ...


class Pace:
    """The clock of a drive that is being played. One thread waits; any thread may pause, step or change the speed.

    The drive's time stands still while paused. A reader that was late catches up: what was missed is not waited for.
    """

    def __init__(self, speed: float = 1.0, *, realtime: bool = True) -> None:
        """With `realtime` false nobody waits for a stamp, and `speed` says nothing; pauses and steps still hold.

        Raises:
            SourceError: a speed that is not from 0.1 to 10.
        """
        self._speed = _checked(speed)
        self._realtime = realtime
        self._lock = threading.Lock()
        self._is_paused = False
        self._steps = 0  # asked for and not yet taken
        self._anchor: tuple[float, int] | None = None  # a moment [s], and the drive's time then [ns]

    @property
    def speed(self) -> float:
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        checked = _checked(speed)
        with self._lock:
            self._hold()
            self._speed = checked

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def pause(self) -> None:
        """Hold the next frame back."""
        with self._lock:
            self._hold()
            self._is_paused = True

    def resume(self) -> None:
        """Play on from where the drive stands; steps not yet taken are forgotten."""
        with self._lock:
            self._hold()
            self._is_paused, self._steps = False, 0

    def step(self) -> None:
        """Pause, and let one more frame through at once."""
        with self._lock:
            self._hold()
            self._is_paused = True
            self._steps += 1

    def jump(self) -> None:
        """The drive goes on elsewhere: its next frame is due at once, also in a pause."""
        with self._lock:
            self._anchor = None
            self._steps = int(self._is_paused)

    def wait(self, stamp_ns: int, stop: Flag) -> bool:
        """Block until the frame of this stamp is due; the first one is due at once. True when stopped meanwhile."""
        while not stop.is_set:
            left_s = self._left_s(stamp_ns)
            if left_s <= 0:
                break
            time.sleep(min(left_s, _SLICE_S))
        return stop.is_set

    def _left_s(self, stamp_ns: int) -> float:
        """How long until it is due [s], at least a slice while paused."""
        now = time.monotonic()
        with self._lock:
            if self._is_paused:
                if not self._steps:
                    return _SLICE_S
                self._steps -= 1
                self._anchor = (now, stamp_ns)
                return 0.0
            if not self._realtime:
                return 0.0
            if self._anchor is None:
                self._anchor = (now, stamp_ns)
            return (stamp_ns - self._anchor[1]) / 1e9 / self._speed - (now - self._anchor[0])

    def _hold(self) -> None:
        """Note where the drive's time stands now."""
        if self._anchor is not None:
            now = time.monotonic()
            passed_s = 0.0 if self._is_paused else (now - self._anchor[0]) * self._speed
            self._anchor = (now, self._anchor[1] + round(passed_s * 1e9))


def _checked(speed: float) -> float:
    if not SLOWEST <= speed <= FASTEST:
        raise SourceError(f"speed {speed:g}: must be from {SLOWEST:g} to {FASTEST:g}; 1 is as recorded")
    return speed

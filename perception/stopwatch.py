"""Stage times: who took how long, over the last frames."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 900  # frames; half a minute at 30 fps


class Stopwatch:
    """Durations by stage name; written by one thread, read by any."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter_ns() - start) / 1e6)

    def add(self, stage: str, ms: float) -> None:
        with self._lock:
            self._times.setdefault(stage, deque(maxlen=self._kept)).append(ms)

    def clear(self) -> None:
        """Forget them all: another engine serves from now on."""
        with self._lock:
            self._times.clear()

    def stages(self) -> dict[str, list[float]]:
        """Copies of the kept durations by stage [ms], in the order in which the stages first ran."""
        with self._lock:
            return {stage: list(times) for stage, times in self._times.items()}


def percentile(values: list[float], q: float) -> float:
    """The q-th percentile (nearest rank) of a non-empty list."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q / 100 * (len(ordered) - 1)))]

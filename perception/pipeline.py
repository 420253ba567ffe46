"""One frame in, one scene out. No threads, no clock, no randomness."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception.protocols import Model, Propagator
from perception.stopwatch import Stopwatch
from perception.types import Features, Frame, Scene


@dataclass
class Pipeline:
    """The network says what is there on every n-th frame; the propagator says which one it is on all.

    Args:
        network_every: the network looks at frames 0, n, 2n, ... [frames].
    """

    model: Model
    propagator: Propagator
    network_every: int = 1
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _count: int = 0

    def step(self, frame: Frame) -> Scene:
        looks = self._count % self.network_every == 0
        self._count += 1
        seen = self.model(frame.image) if looks else None
        features = seen.features if seen else self._features(frame)
        with self.stopwatch("association"):
            return self.propagator.step(frame, seen, features)

    def _features(self, frame: Frame) -> Features | None:
        return self.model.features(frame.image) if self.propagator.needs_features else None

    def close(self) -> None:
        self.model.close()
        self.propagator.close()

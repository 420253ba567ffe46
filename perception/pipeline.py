"""One frame in, one scene out. No threads, no clock, no randomness."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception.protocols import Model, Propagator
from perception.stopwatch import Stopwatch
from perception.types import Features, Frame, Panoptic, Scene

Sight = tuple[Panoptic | None, Features | None]


@dataclass
class Pipeline:
    """The network says what is there on every n-th frame; the propagator says which one it is on all.

    Args:
        network_every: the network looks at frames 0, n, 2n, ... [frames].

    Attributes:
        steps: frames taken so far.
        looked: whether the network looked at the last one.
    """

    model: Model
    propagator: Propagator
    network_every: int = 1
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    steps: int = 0
    looked: bool = False

    def step(self, frame: Frame) -> Scene:
        self.looked = self.steps % self.network_every == 0
        self.steps += 1
        return self.follow(frame, *self.see(frame, self.looked))

    def see(self, frame: Frame, looks: bool) -> Sight:
        """What the network sees in a frame that it looks at, and the features that the propagator needs of every one.

        It knows nothing of other frames, so that a drive's next frame may be seen while this one is followed.
        """
        seen = self.model(frame.image) if looks else None
        return seen, seen.features if seen else self._features(frame)

    def follow(self, frame: Frame, seen: Panoptic | None, features: Features | None) -> Scene:
        """Masks and ids of a frame, which must be the one after the last."""
        with self.stopwatch("association"):
            return self.propagator.step(frame, seen, features)

    def _features(self, frame: Frame) -> Features | None:
        return self.model.features(frame.image) if self.propagator.needs_features else None

    def close(self) -> None:
        self.model.close()
        self.propagator.close()

"""One frame in, one scene out. No threads, no clock, no randomness."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception.errors import PerceptionError
from perception.protocols import Model, Propagator
from perception.stopwatch import Stopwatch
from perception.types import Features, Frame, Panoptic, Scene

Sight = tuple[Panoptic | None, Features | None]


def steps_after(steps: int, looked: bool) -> int:
    """Frames since the network looked last, that one included, one frame later."""
    return 1 if looked else steps + 1


@dataclass
class Pipeline:
    """The network says what is there on every n-th frame; the propagator says which one it is on all.

    Args:
        network_every: the network looks at every n-th frame, counted from the last that it looked at; and at once
            where the propagator knows nothing: at the first frame, and after a cut or a jump [frames]. A look that
            fails there is made up for at the next frame; any other one at its next turn, so that masks are carried
            until then.

    Attributes:
        steps: frames since the network looked last, that one and failed looks included; 0 where it has not looked yet.
        looked: whether the network looked at the last one.
    """

    model: Model
    propagator: Propagator
    network_every: int = 1
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    steps: int = 0
    looked: bool = False

    def step(self, frame: Frame) -> Scene:
        """Raises PerceptionError where the frame fails; the next one can be stepped all the same."""
        is_due = self.steps % self.network_every == 0
        self.looked = is_due or self.propagator.outlook().is_blind(frame)
        try:
            sight = self.see(frame, self.looked)
        except PerceptionError:
            if self.looked and not self.propagator.outlook().is_blind(frame):
                self.steps += 1  # the turn is over: what is known can be carried
            raise
        return self.follow(frame, *sight)

    def see(self, frame: Frame, looks: bool) -> Sight:
        """What the network sees in a frame that it looks at, and the features that the propagator needs of every one.

        It knows nothing of other frames, so that a drive's next frame may be seen while this one is followed.
        """
        seen = self.model(frame.image) if looks else None
        return seen, seen.features if seen else self._features(frame)

    def follow(self, frame: Frame, seen: Panoptic | None, features: Features | None) -> Scene:
        """Masks and ids of a frame, which must be the one after the last."""
        with self.stopwatch("association"):
            scene = self.propagator.step(frame, seen, features)
        self.steps = steps_after(self.steps, seen is not None)
        return scene

    def _features(self, frame: Frame) -> Features | None:
        return self.model.features(frame.image) if self.propagator.needs_features else None

    def close(self) -> None:
        self.model.close()
        self.propagator.close()

"""A fused propagator stepped through a drive, with a carrier that does what the test says."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.propagation.fusion import FusedPropagator
from perception.propagation.rules import FusionRules
from perception.propagation.tracks import LifeCycle
from perception.types import VOID, Features, Frame, Panoptic, Prompt, Scene, TrackState
from tests.fakes import MASKS, PERIOD_NS, FakeCarrier, features, picture, view

CAR = (2, 32, 16, 64, 48)  # class, box
FEATURES = features()
SECOND_NS = 1_000_000_000


@dataclass
class Walk:
    """A propagator stepped through a 30 fps drive."""

    carrier: FakeCarrier = field(default_factory=FakeCarrier)
    lost_for_ns: int = 2 * SECOND_NS
    rules: FusionRules | None = None
    i: int = 0

    def __post_init__(self) -> None:
        life = LifeCycle(3, self.lost_for_ns)
        self.propagator = FusedPropagator(MASKS, life, self.carrier, 4, (2, 3), smooths=False, rules=self.rules)

    def step(self, seen: Panoptic | None = None, given: Features = FEATURES, frame: Frame | None = None) -> Scene:
        scene = self.propagator.step(frame or picture(self.i), seen, given)
        self.i += 1
        return scene

    def steps(self, *views: Panoptic | None) -> list[Scene]:
        return [self.step(seen) for seen in views]

    def until(self, state: TrackState, seen: Panoptic | None, limit: int = 120) -> tuple[Scene, float]:
        """Step with the same view until an event says the state; that scene, and the seconds that it took."""
        start = self.i
        for _ in range(limit):
            scene = self.step(seen)
            if any(e.state is state for e in scene.events):
                return scene, (self.i - 1 - start) * PERIOD_NS / 1e9
        raise AssertionError(f"no track was {state} within {limit} frames")

    def confirmed(self, *boxes: tuple[int, int, int, int, int]) -> Scene:
        return self.steps(*[view(*boxes)] * 3)[-1]


def said(scene: Scene) -> list[tuple[int, TrackState]]:
    return [(e.track_id, e.state) for e in scene.events]


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def prompt_of(x0: int, y0: int, x1: int, y1: int, class_id: int = VOID) -> Prompt:
    mask = np.zeros(MASKS[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return Prompt(mask=mask, class_id=class_id)


def noise(i: int, seed: int, size: tuple[int, int] = (64, 128)) -> Frame:
    """A picture of blots; other seeds give other scenes."""
    blots = np.random.default_rng(seed).integers(0, 256, (16, 32, 3), np.uint8)
    image = cv2.resize(blots, size[::-1], interpolation=cv2.INTER_LINEAR)
    return Frame(i, i * PERIOD_NS, "front", np.asarray(image, np.uint8))

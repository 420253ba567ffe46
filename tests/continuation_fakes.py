"""Things before a camera whose node restarts, and what is remembered of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import pytest

from perception import continuity
from perception.continuity import About, Checkpoint, Numbers
from perception.models.grouping import group_things
from perception.propagation.affinity import AffinityCarrier
from perception.propagation.continuation import State
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.types import Features, Frame, Panoptic, Scene
from tests.fakes import PERIOD_NS

WIDTH, HEIGHT = 160, 96
BOOT = "0b6f2c1e-0000-4000-8000-000000000000"
RUN = "1b6f2c1e-0000-4000-8000-000000000000"
ABOUT = About(BOOT, "front", "source", "model", "", "affinity")
CAR, WALKER, CONE = (2, 10, 20, 42, 44), (3, 100, 30, 116, 78), (None, 60, 60, 84, 84)
Thing = tuple[int | None, int, int, int, int]  # class or None for one that the network does not know; box


def looks(things: Mapping[str, Thing]) -> Features:
    """Each thing has its own look, by its name; the rest another."""
    rng = np.random.default_rng(0)
    vectors: dict[str, np.ndarray] = dict(zip(("", "car", "walker", "cone"), rng.normal(0, 1, (4, 32)), strict=True))

    def at(step: int) -> np.ndarray:
        out = np.empty((HEIGHT // step, WIDTH // step, 32), np.float32)
        out[:] = vectors[""]
        for name, (_, x0, y0, x1, y1) in things.items():
            out[y0 // step : -(-y1 // step), x0 // step : -(-x1 // step)] = vectors[name]
        return np.ascontiguousarray(out.transpose(2, 0, 1))

    return Features(at(16), at(16), at(8), at(4))


def seen(things: Mapping[str, Thing]) -> Panoptic:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for class_id, x0, y0, x1, y1 in things.values():
        if class_id is not None:
            labels[y0:y1, x0:x1] = class_id
    return group_things(labels, [2, 3], [0] * 4)


class Camera:
    """Frames of a scene, through a propagator."""

    def __init__(self, propagator: FusedPropagator | IouPropagator, stamp_ns: int = 10**12) -> None:
        self.propagator, self.stamp_ns, self.seq = propagator, stamp_ns, 0

    def show(self, things: Mapping[str, Thing], times: int = 1) -> Scene:
        for _ in range(times - 1):
            self.show(things)
        self.stamp_ns += PERIOD_NS
        self.seq += 1
        image = np.repeat(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None].astype(np.uint8) // 2, 3, 2)
        image[0, 0] = self.seq % 256  # a living camera never gives the same picture twice
        frame = Frame(self.seq, self.stamp_ns, "front", image)
        return self.propagator.step(frame, seen(things), looks(things))


def fused() -> FusedPropagator:
    life = LifeCycle(confirm_hits=3, lost_for_ns=2_500_000_000)
    return FusedPropagator((WIDTH, HEIGHT), life, AffinityCarrier(), 4, (2, 3), smooths=False)


def checkpoint(state: State, **more) -> Checkpoint:
    return Checkpoint(
        **{"version": continuity.VERSION, "about": ABOUT, "run": RUN, "starts": 0, "numbers": Numbers(), **more},
        identities=state,
    )


def looks_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "looks", lambda _: None)

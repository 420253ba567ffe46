"""The shipped memory stepped through a few frames of noise, in which boxes walk."""

from __future__ import annotations

import numpy as np

from perception.models.card import find
from perception.propagation.carrier import Kept
from perception.propagation.memory import MemoryCarrier
from perception.types import Features

GRAPH = find("road-float").graph.with_name("road-float-memory.onnx")
SHAPES = {"keys": (96, 22, 40), "context": (128, 22, 40), "fine8": (32, 44, 80), "fine4": (24, 88, 160)}
SLOTS, NS = 32, 33_333_333


def features(i: int) -> Features:
    rng = np.random.default_rng(i)
    return Features(**{name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()})


def kept(i: int, things: int) -> Kept:
    """Boxes that walk, in the first slots."""
    masks, active = np.zeros((SLOTS, 88, 160), np.float32), np.zeros(SLOTS, np.bool_)
    for k in range(things):
        y, x = 8 * (k // 8) + 4, 18 * (k % 8) + i
        masks[k, y : y + 6, x : x + 10], active[k] = 1, True
    return Kept(masks, active, active.astype(np.float32), np.full(SLOTS, i * NS), True, i % 2 == 0)


def walk(carrier: MemoryCarrier, frames: range) -> list[np.ndarray]:
    """The masks told of each frame; a second bucket comes into use with frame 2, and goes with frame 4."""
    told = []
    for i in frames:
        told.append(carrier.carry(features(i), i * NS).masks.copy())
        carrier.keep(kept(i, 20 if 2 <= i < 4 else 5))
        if i == 3:
            carrier.forget(1)
    return told

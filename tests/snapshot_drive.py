"""A short drive in which everything happens that a propagator remembers, and propagators that go through it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.propagation.affinity import AffinityCarrier
from perception.propagation.carrier import CELL
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.protocols import TensorSpec
from perception.types import Frame, Panoptic, Prompt, Scene
from tests.fakes import LOOKS, MASKS, PERIOD_NS, features, view

FRAMES = 78
CUT, FROZEN = 46, range(56, 71)  # a cut of the scene, and a camera that gives the same picture
CROWD = range(18, 34)  # eighteen more things, so that a second bucket is used
HIDDEN = range(12, 18)  # the walker is behind something
DENIED = {*range(3, 6), *range(20, 34)}  # the network does not see the parked car, which looks as before
PARKED = (2, 104, 0, 120, 16)
JUMP = 74  # before it, frames are missing for three seconds
LIFE_NS = 300_000_000
Follower = FusedPropagator | IouPropagator
SLOTS = 16
H, W = MASKS[1] // CELL, MASKS[0] // CELL
N = H * W // 16

MEMORY = {
    "keys": (1, 4, 5, N),
    "values": (1, 4, SLOTS, N),
    "known": (1, 4, SLOTS),
    "last_key": (1, 5, N),
    "last_look": (1, 3, N),
    "pointers": (1, SLOTS, 3),
    "areas": (1, SLOTS),
}
SHAPES = {
    "keys": (1, LOOKS, H // 4, W // 4),
    "context": (1, 1, H // 4, W // 4),
    "fine8": (1, 2, H // 2, W // 2),
    "fine4": (1, LOOKS, H, W),
    **{f"memory_{name}": shape for name, shape in MEMORY.items()},
    "masks": (1, SLOTS, H, W),
    **dict.fromkeys(("entry", "filled"), (1, 4)),
    **dict.fromkeys(("kept", "taught", "active", "age_s"), (1, SLOTS)),
}
OUTPUTS = {
    "probabilities": (1, 1 + SLOTS, H, W),
    "presence": (1, SLOTS),
    "quality": (1, SLOTS),
    **{f"next_{name}": shape for name, shape in MEMORY.items()},
}


class Reader:
    """A memory reader of a few lines: what it gives depends on every number of its state and of what is written."""

    name = "reader"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> None:
        self.inputs = tuple(TensorSpec(name, shape, "float32") for name, shape in shapes.items())
        self.outputs = tuple(TensorSpec(name, shape, "float32") for name, shape in OUTPUTS.items())

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        a = {name: array[0] for name, array in arrays.items()}
        cells = a["masks"].reshape(SLOTS, H // 4, 4, W // 4, 4).mean((2, 4)).reshape(SLOTS, N)
        entry = a["entry"][:, None, None]
        values = (a["memory_values"] * (1 - entry) + entry * cells) * a["kept"][:, None]
        key = a["keys"].reshape(LOOKS, N)[:5] + a["context"].reshape(1, N)
        keys = a["memory_keys"] * (1 - entry) + entry * a["memory_last_key"]
        known = np.maximum(a["memory_known"] * a["kept"], a["entry"][:, None] * a["active"])
        taught = a["taught"][:, None]
        pointers = a["memory_pointers"] * (1 - taught) + taught * (cells @ a["memory_last_look"].T)
        areas = 0.5 * (a["memory_areas"] + cells.sum(1))
        weight = a["filled"] * (1 + keys.mean((1, 2)) / 99)
        mean = np.tensordot(weight, values * (known[..., None] + 1) / 2, 1) / max(1e-6, float(weight.sum()))
        masks = np.kron(mean.reshape(SLOTS, H // 4, W // 4), np.ones((4, 4), np.float32)).clip(0, 0.98)
        masks /= np.maximum(1, masks.sum(0))
        shade = np.tanh(pointers.sum(1) + areas) / 50
        look = a["keys"][:3] + 0.01
        out = {
            "probabilities": np.concatenate([1 - masks.sum(0, keepdims=True), masks]),
            "presence": np.minimum(1, 2 * masks.max((1, 2))),
            "quality": 0.8 * np.exp(-np.maximum(0, a["age_s"])) + shade,
            "next_keys": keys,
            "next_values": values,
            "next_known": known,
            "next_last_key": key,
            "next_last_look": look.reshape(3, N),
            "next_pointers": pointers,
            "next_areas": areas,
        }
        return {name: np.asarray(value, np.float32)[None] for name, value in out.items()}

    def close(self) -> None:
        """Nothing to release."""


def built(kind: str, smooths: bool = True, **other: Any) -> Follower:
    """A fresh propagator; `other` settings than the usual ones."""
    size, life = other.get("size", MASKS), LifeCycle(3, other.get("lost_for_ns", LIFE_NS))
    if kind == "iou":
        return IouPropagator(size, life, other.get("least_iou", 0.3))
    slots = other.get("slots", 2 * SLOTS)
    reader = Reader(other.get("shapes", SHAPES))
    carrier = AffinityCarrier(slots) if kind == "affinity" else MemoryCarrier(reader, slots // SLOTS)
    return FusedPropagator(size, life, carrier, other.get("classes", 4), (2, 3), smooths, other.get("rules"))


@dataclass(frozen=True)
class Shown:
    """One frame of the drive: what the camera, the network and people say."""

    frame: Frame
    seen: Panoptic | None
    features: Any


@cache
def shown(i: int, every: int = 1) -> Shown:
    spots = _spots(i)
    seen = view(*[s for s in spots if not ((s[0] == 3 and i in HIDDEN) or (s == PARKED and i in DENIED))])
    rng = np.random.default_rng(i)
    labels = np.where(seen.labels == 0, rng.random(seen.labels.shape) < 0.1, seen.labels).astype(np.uint8)
    confidence = rng.integers(60, 255, (H, W), np.uint8)
    noise = {name: rng.random(SHAPES[name][1:], np.float32) for name in ("fine8", "fine4")}
    looks = features(*[(1 + k % (LOOKS - 1), *spot[1:]) for k, spot in enumerate(spots)])
    looks = replace(looks, fine8=noise["fine8"], fine4=looks.fine4 + noise["fine4"] / 5)
    seen = replace(seen, labels=labels, confidence=confidence, features=looks)
    return Shown(_frame(i), None if i % every else seen, looks)


def _spots(i: int) -> list[tuple[int, int, int, int, int]]:
    x = 16 + i if i < CUT else i - CUT
    spots = [PARKED, (2, x, 0, x + 16, 16)] if i < CUT else [(2, x, 0, x + 16, 16)]
    if i > 3:
        spots.append((3, 96 - i, 16, 112 - i, 32))
    if i in CROWD:
        spots += [
            (2 + k % 2, 14 * (k % 9), 32 + 16 * (k // 9), 14 * (k % 9) + 12, 44 + 16 * (k // 9)) for k in range(18)
        ]
    return spots


def _frame(i: int) -> Frame:
    still = min(i, FROZEN[0]) if i in FROZEN else i
    blots = np.random.default_rng(1 + (i >= CUT)).integers(0, 256, (16, 32, 3), np.uint8)
    image = np.roll(np.asarray(cv2.resize(blots, MASKS, interpolation=cv2.INTER_LINEAR), np.uint8), still // 2, 1)
    image[0, 0] = still % 256
    return Frame(i, i * PERIOD_NS + (i >= JUMP) * 3_000_000_000, "front", np.ascontiguousarray(image))


def said_by_people(propagator: Follower, i: int) -> None:
    """Prompts and wishes after frame i."""
    if isinstance(propagator, IouPropagator):
        return
    if i in (8, 36, 66):
        mask = np.zeros(MASKS[::-1], bool)
        mask[40:56, 60 + i // 2 : 76 + i // 2] = True
        propagator.prompt(Prompt(mask=mask))
    if i == 24:
        propagator.relabel(propagator.life.tracks[0].track_id, 3)
    if i in (27, 41):
        propagator.remove(propagator.life.tracks[-1].track_id)


def driven(propagator: Follower, every: int = 1, since: int = 0) -> Iterator[tuple[int, tuple]]:
    """Each frame's number and what was said of it, prompts answered."""
    for i in range(since, FRAMES):
        now = shown(i, every)
        scene = propagator.step(now.frame, now.seen, now.features)
        said_by_people(propagator, i)
        yield i, plain(scene)


def plain(scene: Scene) -> tuple:
    """All that a scene says, as values that can be compared."""
    rows = [tuple(getattr(row, name) for name in row.__slots__) for row in (*scene.tracks, *scene.events)]
    rest = (scene.frame_seq, scene.stamp_ns, scene.validity, scene.reason, scene.frames_since_network)
    return *rest, len(scene.tracks), tuple(rows), scene.labels.tobytes(), scene.id_map.tobytes()

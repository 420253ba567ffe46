"""Training-free carrying of masks: labels go where the network's own features look alike.

Label propagation as evaluated by Jabri et al. 2020 (CRW, section 4.1) and Caron et al. 2021 (DINO, appendix): each cell
takes the mean label of the cells most like it, within a radius in the last frames and without one in the key frame.
Instead of a choice of the k most alike the softmax is colder, which costs less and serves as well.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.propagation.carrier import Carried, Kept
from perception.types import Features

WEIGHTS = (0.5, 1.0, 0.5)  # of keys, fine8 and fine4 in the likeness
TEMPERATURE = 0.04  # of the softmax over likeness
KEY_LEAD = 0.1  # likeness that key frames are ahead by: they do not drift
SHARPNESS = 1.3  # exponent that keeps labels from blurring, 1 = none
RADIUS = 6  # [cells of 1/8] beyond it nothing moves between two remembered frames
RECENT = 4  # frames remembered besides the key frames
MARGIN = 5  # [cells of 1/8] around the masks before: only there they can be now
RING = 4  # [cells of 1/8] of background remembered around a thing in its key frame
TILE = 8  # [cells of 1/8] side of the squares that are read at once
SUB = 2  # labels per side of a cell of 1/8, which makes the masks' grid
IS_THING = 0.5  # a label above it is of the thing
FADING_S = 30.0  # the expected IoU falls by 1/e in this time unseen, besides the masks' loss of sureness

Array = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Remembered:
    """A frame with a border of RADIUS empty cells, so that every window lies within."""

    features: Array  # (h/8 + 2 RADIUS, w/8 + 2 RADIUS, d) of unit length, read-only
    labels: Array  # (slots, h/8 + 2 RADIUS, w/8 + 2 RADIUS, SUB²)
    known: NDArray[np.bool_]  # (slots,) followed already; of other things the frame says nothing
    is_good: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """A thing and its surroundings in the frame that showed it best."""

    features: Array  # (n, d), read-only
    labels: Array  # (slots, n, SUB²)
    is_pinned: bool


class AffinityCarrier:
    """Carries masks by the likeness of features alone; its cost grows with the area of what is followed.

    Memory is bounded: RECENT frames and one key per slot.

    Args:
        slots: most things carried at once.
    """

    def __init__(self, slots: int = 32) -> None:
        self.slots = self.cheap_slots = slots
        self.reset()

    def reset(self) -> None:
        self._keys: list[_Key | None] = [None] * self.slots
        self._recent: deque[_Remembered] = deque(maxlen=RECENT)
        self._now: Array | None = None  # (h/8, w/8, d)
        self._near: dict[int, NDArray[np.bool_]] = {}  # slot -> (h/8, w/8) where its thing can be now
        self._seen_ns = np.zeros(self.slots, np.int64)

    def close(self) -> None:
        """Nothing to release."""

    def forget(self, slot: int) -> None:
        self._keys[slot] = None
        self._near.pop(slot, None)
        for remembered in (*self._recent, *(key for key in self._keys if key)):
            remembered.labels[slot] = 0
        for frame in self._recent:
            frame.known[slot] = False

    def carry(self, features: Features, stamp_ns: int) -> Carried:
        self._now = _joined(features)
        h, w = self._now.shape[:2]
        masks = np.zeros((self.slots, h * SUB, w * SUB), np.float32)
        presence, quality = np.zeros(self.slots, np.float32), np.zeros(self.slots, np.float32)
        for top in range(0, h, TILE):
            for left in range(0, w, TILE):
                self._carry_tile(top, left, masks)
        for slot in self._near:
            age_s = (stamp_ns - int(self._seen_ns[slot])) / 1e9
            presence[slot] = masks[slot].max()
            quality[slot] = _expected_iou(masks[slot], age_s)
        return Carried(masks, presence, quality)

    def _carry_tile(self, top: int, left: int, masks: Array) -> None:
        """Write into `masks` what a square of cells shows of the things that can be there."""
        assert self._now is not None
        tile = np.s_[top : top + TILE, left : left + TILE]
        near = {slot: where[tile] for slot, where in self._near.items() if where[tile].any()}
        if not near:
            return
        cells = np.logical_or.reduce(list(near.values()))
        rows, columns = cells.shape
        window = np.s_[top : top + rows + 2 * RADIUS, left : left + columns + 2 * RADIUS]
        labels = np.zeros((rows, columns, len(near), SUB, SUB), np.float32)
        labels[cells] = self._voted(self._now[tile][cells], window, list(near))
        drawn = labels.transpose(2, 0, 3, 1, 4).reshape(len(near), rows * SUB, columns * SUB)
        y, x = top * SUB, left * SUB
        masks[list(near), y : y + rows * SUB, x : x + columns * SUB] = drawn

    def _voted(self, query: Array, window: tuple[slice, slice], slots: list[int]) -> Array:
        """(n, d) features of cells -> (n, slots, SUB, SUB) labels of the cells that look like them."""
        sources = [m for i, m in enumerate(self._recent) if m.known[slots].all() or i == len(self._recent) - 1]
        keys = [key for key in (self._keys[slot] for slot in slots) if key]
        d = query.shape[1]
        likeness = [query @ m.features[window].reshape(-1, d).T for m in sources]
        likeness += [query @ key.features.T + np.float32(KEY_LEAD) for key in keys]
        values = [m.labels[(slots, *window)].reshape(len(slots), -1, SUB * SUB) for m in sources]
        values += [key.labels[slots] for key in keys]
        weight = np.concatenate(likeness, 1)
        weight -= weight.max(1, keepdims=True)
        weight *= np.float32(1 / TEMPERATURE)
        np.exp(weight, out=weight)
        table = np.concatenate(values, 1).transpose(1, 0, 2).reshape(weight.shape[1], -1)
        mean = (weight @ table) / weight.sum(1, keepdims=True)
        return _sharpened(mean.reshape(-1, len(slots), SUB, SUB))

    def keep(self, kept: Kept) -> None:
        assert self._now is not None
        h, w, _ = self._now.shape
        if self._recent and not self._recent[-1].is_good:
            self._recent.pop()
        labels = np.zeros((self.slots, h + 2 * RADIUS, w + 2 * RADIUS, SUB * SUB), np.float32)
        frame = _Remembered(_fixed(_bordered(self._now)), labels, kept.active.copy(), kept.is_good)
        self._recent.append(frame)
        self._seen_ns = kept.seen_ns.copy()
        self._near = {slot: near for slot, near in self._near.items() if kept.active[slot]}  # of the others none ask
        for slot in map(int, np.flatnonzero(kept.active)):
            labels[(slot, *_INNER)] = _by_cell(kept.masks[slot])
            self._follow(slot, frame)
        for slot in map(int, np.flatnonzero(kept.active)):
            key = self._keys[slot]
            if key is None or (kept.is_key and not key.is_pinned):
                self._keys[slot] = _key_of(frame, slot, is_pinned=False) or key

    def _follow(self, slot: int, frame: _Remembered) -> None:
        """A hidden thing is looked for where it was last."""
        is_thing = frame.labels[(slot, *_INNER)].max(2) > IS_THING
        if is_thing.any():
            self._near[slot] = _within(is_thing, MARGIN)

    def pin(self, slot: int, mask: Array, stamp_ns: int) -> None:
        frame = self._recent[-1]
        own = _by_cell(mask)
        frame.labels[(slice(None), *_INNER)] *= 1 - own
        frame.labels[(slot, *_INNER)] = own
        frame.known[slot], frame.is_good = True, True
        self._seen_ns[slot] = stamp_ns
        self._follow(slot, frame)
        self._keys[slot] = _key_of(frame, slot, is_pinned=True)


_INNER = np.s_[RADIUS:-RADIUS, RADIUS:-RADIUS]


def _key_of(frame: _Remembered, slot: int, is_pinned: bool) -> _Key | None:
    """None where the frame does not show the thing."""
    is_thing = frame.labels[(slot, *_INNER)].max(2) > IS_THING
    if not is_thing.any():
        return None
    around = _within(is_thing, RING)
    return _Key(_fixed(frame.features[_INNER][around]), frame.labels[(slice(None), *_INNER)][:, around], is_pinned)


def _expected_iou(mask: Array, age_s: float) -> float:
    """What IoU a carried mask has with the truth: the square of how sure its labels are, docs/propagation.md."""
    sure = float(np.square(mask).sum()) / max(float(mask.sum()), 1e-3)
    return sure**2 * float(np.exp(-max(0.0, age_s) / FADING_S))


def _sharpened(labels: Array) -> Array:
    """(n, slots, ...) probabilities raised to a power; with the background's they still add up to 1."""
    raised = np.clip(labels, 0, 1) ** SHARPNESS
    background = np.clip(1 - labels.sum(1, keepdims=True), 0, 1) ** SHARPNESS
    return raised / (raised.sum(1, keepdims=True) + background)


def _joined(features: Features) -> Array:
    """(h/8, w/8, d) features of unit length, each part centred."""
    h, w = features.fine8.shape[1:]
    keys = cv2.resize(_channels_last(features.keys), (w, h), interpolation=cv2.INTER_LINEAR)
    fine4 = cv2.resize(_channels_last(features.fine4), (w, h), interpolation=cv2.INTER_AREA)
    parts = (np.asarray(keys, np.float32), _channels_last(features.fine8), np.asarray(fine4, np.float32))
    return np.concatenate([_weighted(p, weight / sum(WEIGHTS)) for p, weight in zip(parts, WEIGHTS, strict=True)], 2)


def _weighted(part: Array, weight: float) -> Array:
    return _unit(part - part.mean((0, 1)), axis=2) * np.float32(weight**0.5)


def _unit(x: Array, axis: int) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=axis, keepdims=True), 1e-6)


def _channels_last(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(1, 2, 0))


def _fixed(x: Array) -> Array:
    """The array itself, read-only: a snapshot need not copy it."""
    x.setflags(write=False)
    return x


def _bordered(x: Array) -> Array:
    return np.pad(x, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))


def _by_cell(mask: Array) -> Array:
    """(h/4, w/4) -> (h/8, w/8, SUB²)."""
    h, w = mask.shape[0] // SUB, mask.shape[1] // SUB
    return mask.reshape(h, SUB, w, SUB).transpose(0, 2, 1, 3).reshape(h, w, SUB * SUB)


def _within(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """(h, w) bool: within `margin` cells of the mask."""
    kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)).astype(bool)

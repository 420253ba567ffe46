"""Which cells of the frame each carried thing has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.propagation.carrier import Carried
from perception.propagation.rules import FusionRules
from perception.propagation.tracks import LiveTrack


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """One frame's cells among the slots."""

    cells: NDArray[np.int64]  # (h, w) slot + 1 that each cell shows, 0 = none
    areas: NDArray[np.int64]  # (slots,) [cells]
    shown: NDArray[np.bool_]  # (slots,)

    def shows(self, track: LiveTrack) -> bool:
        slot = track.carriage.slot if track.carriage else None
        return slot is not None and bool(self.shown[slot])

    def common(self, cells: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """(slots, count) cells that a carried mask and a thing of the id map `cells` (h, w) share."""
        slots = len(self.shown)
        table = np.bincount((self.cells * (count + 1) + cells).ravel(), minlength=(slots + 1) * (count + 1))
        return table.reshape(slots + 1, count + 1)[1:, 1:]


def no_claim(shape: tuple[int, int], slots: int) -> Claim:
    """That of a frame in which nothing is carried."""
    return Claim(np.zeros(shape, np.int64), np.zeros(slots, np.int64), np.zeros(slots, bool))


def claim(carried: Carried, followed: Sequence[int], before: NDArray[np.int64], rules: FusionRules) -> Claim:
    """Each cell to the followed slot that has it most, and none to slots whose thing is hidden.

    Args:
        followed: slots, rising.
        before: (slots,) areas in the frame before [cells].
    """
    slots = len(carried.presence)
    if not followed:
        return no_claim((carried.masks.shape[1], carried.masks.shape[2]), slots)
    rows = np.array(followed)
    # Slots are handed out from the lowest on, so that mostly nothing is copied.
    masks = carried.masks[: len(rows)] if rows[-1] < len(rows) else carried.masks[rows]
    # The background has what is left of 1. Reductions run as fast as memory, argmax does not: only where it is needed.
    taken = np.flatnonzero(masks.max(0) > 1 - masks.sum(0))
    winner = np.zeros(masks.shape[1:], np.int64)
    winner.flat[taken] = rows[masks.reshape(len(rows), -1)[:, taken].argmax(0)] + 1
    counts = np.bincount(winner.ravel(), minlength=slots + 1)[1:]
    shown = (counts >= rules.least_cells) & (counts >= rules.shrunk * before) & (carried.presence >= rules.present)
    return Claim(winner * np.append(False, shown)[winner], np.where(shown, counts, 0), shown)

"""The things that are followed: their lives, and the slots that carry them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from perception.propagation.motion import BoxMotion
from perception.propagation.rules import FusionRules
from perception.propagation.slots import SlotTable
from perception.propagation.tracks import Carriage, LifeCycle, LiveTrack
from perception.types import Segment


class Roster:
    """Begins and ends what is followed, with its slot."""

    def __init__(self, life: LifeCycle, slots: SlotTable, rules: FusionRules) -> None:
        self.life, self.slots, self.rules = life, slots, rules

    @property
    def is_full(self) -> bool:
        return len(self.life.tracks) >= self.rules.most_tracks

    def begin(
        self, segment: Segment, mask: NDArray[np.bool_], look: NDArray[np.float32], stamp_ns: int, reason: str
    ) -> LiveTrack:
        """A tentative track without a slot."""
        track = self.life.begin(segment, mask, stamp_ns, reason)
        motion = BoxMotion(segment.box_xyxy, stamp_ns)
        track.carriage = Carriage(None, motion, np.array(look), Counter({segment.class_id: 1}))
        return track

    def carry(self, track: LiveTrack, cells: int) -> None:
        """Give it a slot where it has none, is large enough and one is to be had."""
        if track.carriage and track.carriage.slot is None and cells >= self.rules.slot_cells:
            self.slots.take_any(track)

    def end(self, track: LiveTrack, reason: str, stamp_ns: int) -> None:
        self.slots.free(track)
        self.life.end(track, reason, stamp_ns)

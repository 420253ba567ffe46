"""Which slot of the shared memory carries which track."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.propagation.carrier import Carrier
from perception.propagation.tracks import LiveTrack
from perception.types import VOID


class SlotTable:
    """Hands the carrier's slots to tracks and takes them back; a freed slot is wiped before it goes to another.

    Without the wiping a recycled slot would inherit the old thing's memory: the main trap of shared memories.
    """

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.owners: list[LiveTrack | None] = [None] * carrier.slots

    def take(self, track: LiveTrack) -> int | None:
        """The lowest free slot, so that the things of a usual scene fill one bucket; None where all are taken."""
        assert track.carriage is not None
        for slot, owner in enumerate(self.owners):
            if owner is None:
                self.carrier.forget(slot)
                self.owners[slot] = track
                track.carriage.slot, track.carriage.is_learnt = slot, False
                return slot
        return None

    def take_any(self, track: LiveTrack) -> int | None:
        """A free slot, or that of the thing hidden longest, which keeps its pointer to be known again by.

        A hidden thing also yields before a slot is taken that would cost another call of the graph.
        """
        hidden = {
            key: t for key, t in self._hidden().items() if key[1] < self.carrier.cheap_slots or not self._has_free
        }
        if None not in self.owners[: self.carrier.cheap_slots] and hidden:
            self.free(hidden[min(hidden)])
        return self.take(track)

    @property
    def _has_free(self) -> bool:
        return None in self.owners

    @property
    def has_room(self) -> bool:
        """Whether `take_any` would find one."""
        return self._has_free or bool(self._hidden())

    def last_resort(self) -> LiveTrack | None:
        """The thing of no class hidden longest, which can't be found again without its slot; None: there is none."""
        hidden = self._hidden(have_class=False)
        return hidden[min(hidden)] if hidden else None

    def _hidden(self, have_class: bool = True) -> dict[tuple[int, int], LiveTrack]:
        """(since when [ns], slot) -> its track; of those that have a class, or of those that only the memory knows."""
        followed = [(slot, track, track.carriage) for slot, track in self.followed() if track.carriage]
        known = [(slot, track, c) for slot, track, c in followed if (c.class_seen != VOID) == have_class]
        return {(c.hidden_since_ns, slot): track for slot, track, c in known if c.hidden_since_ns is not None}

    def pin(self, track: LiveTrack, mask: NDArray[np.float32], stamp_ns: int) -> None:
        """Let the memory know it for good by (h, w) cells of the frame kept last."""
        if track.carriage and track.carriage.slot is not None:
            self.carrier.pin(track.carriage.slot, mask, stamp_ns)
            track.carriage.is_learnt = True

    def free(self, track: LiveTrack) -> None:
        if track.carriage and track.carriage.slot is not None:
            self.owners[track.carriage.slot] = None
            track.carriage.slot = None

    def clear(self) -> None:
        self.owners = [None] * self.carrier.slots
        self.carrier.reset()

    def followed(self) -> list[tuple[int, LiveTrack]]:
        return [(slot, track) for slot, track in enumerate(self.owners) if track is not None]

    @property
    def active(self) -> NDArray[np.bool_]:
        """(slots,) bool."""
        return np.array([track is not None for track in self.owners])

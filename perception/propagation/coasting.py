"""What the network has not said in this frame: tracks that go on as carried, are hidden or denied, and end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.propagation.carrier import Carried
from perception.propagation.claim import Claim
from perception.propagation.publishing import Picture
from perception.propagation.roster import Roster
from perception.propagation.tracks import FADED, Carriage, LiveTrack
from perception.types import Segment, TrackState

UNSEEN = 0.62  # of a carried mask's expected IoU is left where the network looks and does not see the thing; fitted


@dataclass(frozen=True, eq=False)
class Coasting:
    """One frame's tracks that the network did not see.

    Args:
        has_looked: the network looked at this frame.
    """

    roster: Roster
    carried: Carried
    claim: Claim
    picture: Picture
    stamp_ns: int
    has_looked: bool

    def coast(self, track: LiveTrack) -> None:
        """Carry it on, hide it or end it."""
        carriage = track.carriage
        assert carriage is not None
        track.observed = False
        if track.state is TrackState.TENTATIVE and self.has_looked:
            carriage.misses += 1
            if carriage.misses > self.roster.rules.tentative_misses:
                self.roster.end(track, "not confirmed", self.stamp_ns)
                return
        is_denied = self._is_denied(track)
        if is_denied or not self._carry_on(track):
            self._hide(track, is_denied)

    def _is_denied(self, track: LiveTrack) -> bool:
        """True once the network has looked for `denied_ns` and not seen what is carried; prompts need no network.

        Only a look can deny, and one alone does not, however long ago the one before was.
        """
        carriage = track.carriage
        assert carriage is not None
        if track.prompted:
            return False
        if self.has_looked and carriage.denied_since_ns is None:
            carriage.denied_since_ns = self.stamp_ns
        since = carriage.denied_since_ns
        if since is None or track.is_hidden:
            return since is not None
        return self.has_looked and self.stamp_ns - since >= self.roster.rules.denied_ns

    def _carry_on(self, track: LiveTrack) -> bool:
        """Show the carried mask, or the last one moved of a thing too small to be carried; False: it is hidden."""
        carriage = track.carriage
        assert carriage is not None
        if carriage.slot is None:
            return self._move_on(track)
        found = None
        if self.claim.shows(track):
            found = self.picture.add_carried(track, self.carried.masks[carriage.slot])
        if found is None:
            return False
        quality = float(self.carried.quality[carriage.slot]) * (UNSEEN if self.has_looked else 1.0)
        if track.is_hidden:
            self.roster.life.change(track, TrackState.CONFIRMED, "visible again", self.stamp_ns)
        else:
            quality = min(quality, track.quality)  # nothing was seen that could have made it better
        carriage.shown()
        _show(track, *found, quality)
        carriage.locate(track.segment, self.stamp_ns)
        return True

    def _move_on(self, track: LiveTrack) -> bool:
        assert track.carriage is not None
        if self.has_looked or track.is_hidden:
            return False
        x0, y0, _, _ = track.carriage.motion.at(self.stamp_ns)
        found = self.picture.add_moved(track, (round(x0), round(y0)))
        if found is None:
            return False
        track.carriage.shown()
        _show(track, *found, track.quality * FADED)
        return True

    def _hide(self, track: LiveTrack, is_denied: bool) -> None:
        carriage, stamp_ns = track.carriage, self.stamp_ns
        assert carriage is not None
        if track.state is TrackState.CONFIRMED:
            state, reason = self._why_hidden(track, is_denied)
            self.roster.life.change(track, state, reason, stamp_ns)
        if track.is_hidden:
            track.quality = 0.0  # there is no mask
        if carriage.hidden_since_ns is None:
            carriage.hidden_since_ns = stamp_ns
        hidden_ns = carriage.hidden_ns(stamp_ns)
        if track.prompted:
            return
        if hidden_ns > self.roster.life.lost_for_ns:
            self.roster.end(track, f"not seen for {hidden_ns / 1e9:.2f} s", stamp_ns)
        elif self._has_left(carriage):
            self.roster.end(track, "left the picture", stamp_ns)

    def _has_left(self, carriage: Carriage) -> bool:
        """All of where its motion expects it lies outside the picture."""
        x0, y0, x1, y1 = carriage.motion.at(self.stamp_ns)
        width, height = self.picture.size
        return x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height

    def _why_hidden(self, track: LiveTrack, is_denied: bool) -> tuple[TrackState, str]:
        slot = track.carriage.slot if track.carriage else None
        if slot is None:
            return TrackState.LOST, "not seen"
        if not self.claim.shown[slot]:
            return TrackState.OCCLUDED, f"hidden: presence {float(self.carried.presence[slot]):.2f}"
        if is_denied:
            return TrackState.LOST, "the network does not see it any more"
        return TrackState.OCCLUDED, "hidden: covered by other things"


def _show(track: LiveTrack, mask: np.ndarray, box: tuple[int, int, int, int], quality: float) -> None:
    track.mask, track.quality = mask, quality
    track.segment = Segment(track.segment.class_id, track.segment.score, int(np.count_nonzero(mask)), box)

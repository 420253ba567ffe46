"""The life of a track: tentative, confirmed, lost, ended. Ages come from stamps, never from frame counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.types import Segment, Track, TrackEvent, TrackState

Box = tuple[int, int, int, int]


@dataclass(eq=False)
class LiveTrack:
    """One thing being followed, with the last mask that was seen of it."""

    track_id: int
    segment: Segment
    mask: NDArray[np.bool_]  # the box's crop
    first_ns: int
    last_ns: int
    hits: int = 1
    state: TrackState = TrackState.TENTATIVE

    def snapshot(self) -> Track:
        s = self.segment
        return Track(self.track_id, s.class_id, self.state, s.score, s.box_xyxy, self.first_ns, self.last_ns)


@dataclass
class LifeCycle:
    """Begins, confirms, loses and ends tracks, and says each change with its reason.

    Args:
        confirm_hits: sightings before a track is confirmed.
        lost_for_ns: how long a lost track may come back [ns].
    """

    confirm_hits: int = 3
    lost_for_ns: int = 350_000_000
    tracks: list[LiveTrack] = field(default_factory=list)
    _next_id: int = 1
    _events: list[TrackEvent] = field(default_factory=list)

    def seen(self, track: LiveTrack, segment: Segment, mask: NDArray[np.bool_], stamp_ns: int) -> None:
        track.segment, track.mask, track.last_ns = segment, mask, stamp_ns
        track.hits += 1
        if track.state is TrackState.LOST:
            self._change(track, TrackState.CONFIRMED, "found again", stamp_ns)
        elif track.state is TrackState.TENTATIVE and track.hits >= self.confirm_hits:
            self._change(track, TrackState.CONFIRMED, f"seen {track.hits} times", stamp_ns)

    def begin(self, segment: Segment, mask: NDArray[np.bool_], stamp_ns: int) -> LiveTrack:
        track = LiveTrack(self._next_id, segment, mask, stamp_ns, stamp_ns)
        self._next_id += 1
        self.tracks.append(track)
        self._change(track, TrackState.TENTATIVE, "first seen", stamp_ns)
        return track

    def missed(self, track: LiveTrack, stamp_ns: int) -> None:
        """Not seen in a frame that the network looked at."""
        if track.state is TrackState.TENTATIVE:
            self.end(track, "not confirmed", stamp_ns)
        elif stamp_ns - track.last_ns > self.lost_for_ns:
            self.end(track, f"not seen for {(stamp_ns - track.last_ns) / 1e9:.2f} s", stamp_ns)
        elif track.state is TrackState.CONFIRMED:
            self._change(track, TrackState.LOST, "not seen", stamp_ns)

    def end(self, track: LiveTrack, reason: str, stamp_ns: int) -> None:
        self.tracks.remove(track)
        self._change(track, TrackState.ENDED, reason, stamp_ns)

    def end_all(self, reason: str, stamp_ns: int) -> None:
        for track in list(self.tracks):
            self.end(track, reason, stamp_ns)

    def take_events(self) -> tuple[TrackEvent, ...]:
        """The changes since the last call, in their order."""
        events, self._events = tuple(self._events), []
        return events

    def _change(self, track: LiveTrack, state: TrackState, reason: str, stamp_ns: int) -> None:
        track.state = state
        self._events.append(TrackEvent(track.track_id, track.segment.class_id, state, reason, stamp_ns))

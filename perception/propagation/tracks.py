"""The life of a track: tentative, confirmed, occluded or lost, ended. Ages come from stamps, not from frame counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.errors import PromptError
from perception.propagation.motion import BoxMotion
from perception.types import VOID, Segment, Track, TrackEvent, TrackState

Box = tuple[int, int, int, int]
FADED = 0.9  # of the expected IoU is left, each frame that a mask is only repeated or moved
LEAST_WHOLE = 0.6  # of a thing's area that must show for its place to be believed
WHOLE_KEPT = 0.97  # of the area remembered, each frame: things drive away, too
_HIDDEN = (TrackState.OCCLUDED, TrackState.LOST)


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
    observed: bool = True
    quality: float = 1.0
    prompted: bool = False
    carriage: Carriage | None = None  # where masks are carried

    def snapshot(self) -> Track:
        s = self.segment
        return Track(
            self.track_id, s.class_id, self.state, s.score, s.box_xyxy, self.first_ns, self.last_ns,
            self.observed, self.quality, self.prompted,
        )  # fmt: skip

    @property
    def is_hidden(self) -> bool:
        return self.state in _HIDDEN


def expected_iou(score: float) -> float:
    """What IoU a seen mask of this score has with the truth; fitted to `road`, docs/propagation.md shows how well."""
    return min(1.0, 1.06 * score)


def as_class(segment: Segment, class_id: int) -> Segment:
    return Segment(class_id, segment.score, segment.area_px, segment.box_xyxy)


@dataclass(eq=False)
class Carriage:
    """What a carrying propagator knows of a track besides."""

    slot: int | None  # None where all slots are taken: the track is then only associated
    motion: BoxMotion
    pointer: NDArray[np.float32]  # how it looks, of unit length
    votes: Counter[int]  # classes that the network gave it
    denied_since_ns: int | None = None  # the network looks and does not see what is carried [ns]
    hidden_since_ns: int | None = None
    down_ns: int = 0  # of the time since then, in which the node did not run [ns]
    whole_px: float = 0.0  # area of the thing when nothing hid it, slowly forgotten
    misses: int = 0  # in a row, of a tentative track
    is_learnt: bool = False  # the memory has been told of it in its slot
    decided: int | None = None  # class that a person gave it

    @property
    def class_seen(self) -> int:
        """The class that the network gives it most often."""
        return self.votes.most_common(1)[0][0] if self.votes else VOID

    @property
    def class_id(self) -> int:
        return self.class_seen if self.decided is None else self.decided

    def hidden_ns(self, stamp_ns: int) -> int:
        """How long the node has looked for it in vain; what is visible counts from now on."""
        return 0 if self.hidden_since_ns is None else stamp_ns - self.hidden_since_ns - self.down_ns

    def shown(self) -> None:
        """It is visible."""
        self.hidden_since_ns, self.down_ns = None, 0

    def locate(self, segment: Segment, stamp_ns: int) -> None:
        """Note where it is, unless what shows is a remnant: of that neither place nor size are the thing's."""
        self.whole_px = max(float(segment.area_px), WHOLE_KEPT * self.whole_px)
        if segment.area_px >= LEAST_WHOLE * self.whole_px:
            self.motion.see(segment.box_xyxy, stamp_ns)


@dataclass
class LifeCycle:
    """Begins, confirms, hides, loses and ends tracks, and says each change with its reason.

    Args:
        confirm_hits: sightings before a track is confirmed.
        lost_for_ns: how long a lost track may come back [ns].
    """

    confirm_hits: int = 3
    lost_for_ns: int = 350_000_000
    tracks: list[LiveTrack] = field(default_factory=list)
    next_id: int = 1
    _events: list[TrackEvent] = field(default_factory=list)

    def seen(self, track: LiveTrack, segment: Segment, mask: NDArray[np.bool_], stamp_ns: int) -> None:
        track.segment, track.mask, track.last_ns = segment, mask, stamp_ns
        track.observed, track.quality = True, expected_iou(segment.score)
        track.hits += 1
        if track.is_hidden:
            self.change(track, TrackState.CONFIRMED, "found again", stamp_ns)
        elif track.state is TrackState.TENTATIVE and track.hits >= self.confirm_hits:
            self.change(track, TrackState.CONFIRMED, f"seen {track.hits} times", stamp_ns)

    def begin(self, segment: Segment, mask: NDArray[np.bool_], stamp_ns: int, reason: str = "first seen") -> LiveTrack:
        track = LiveTrack(self.next_id, segment, mask, stamp_ns, stamp_ns, quality=expected_iou(segment.score))
        self.next_id += 1
        self.tracks.append(track)
        self.change(track, TrackState.TENTATIVE, reason, stamp_ns)
        return track

    def missed(self, track: LiveTrack, stamp_ns: int) -> None:
        """Not seen in a frame that the network looked at."""
        if track.state is TrackState.TENTATIVE:
            self.end(track, "not confirmed", stamp_ns)
        elif stamp_ns - track.last_ns > self.lost_for_ns:
            self.end(track, f"not seen for {(stamp_ns - track.last_ns) / 1e9:.2f} s", stamp_ns)
        elif track.state is TrackState.CONFIRMED:
            self.change(track, TrackState.LOST, "not seen", stamp_ns)

    def alive(self, track_id: int) -> LiveTrack:
        """Raises PromptError where no such track lives."""
        track = next((t for t in self.tracks if t.track_id == track_id), None)
        if track is None:
            raise PromptError(f"track {track_id} does not live (any more); the tracks topic lists those that do")
        return track

    def end(self, track: LiveTrack, reason: str, stamp_ns: int) -> None:
        self.tracks.remove(track)
        self.change(track, TrackState.ENDED, reason, stamp_ns)

    def end_all(self, reason: str, stamp_ns: int) -> None:
        for track in list(self.tracks):
            self.end(track, reason, stamp_ns)

    def change(self, track: LiveTrack, state: TrackState, reason: str, stamp_ns: int) -> None:
        """Take a track into a state; said as an event."""
        track.state = state
        self._events.append(TrackEvent(track.track_id, track.segment.class_id, state, reason, stamp_ns))

    def take_events(self) -> tuple[TrackEvent, ...]:
        """The changes since the last call, in their order."""
        events, self._events = tuple(self._events), []
        return events

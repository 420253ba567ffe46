"""Watches for ids that seem to have changed hands: a reason to keep the last seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perception.propagation.motion import box_iou
from perception.types import Frame, Scene, Track, TrackState

WITHIN_NS = 1_000_000_000  # between the last sight of the old track and the birth of the new one [ns]
LEAST_IOU = 0.5  # of their boxes


class SwitchWatch:
    """A sink that says when a new track of the same class is born where a confirmed one has just vanished.

    Without truth nobody knows an id switch for sure; this finds those that a person would suspect.

    Args:
        say: called with one line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: dict[int, tuple[Track, int]] = {}  # the last sight and its stamp [ns], by id

    def send(self, frame: Frame, scene: Scene) -> None:
        now = scene.stamp_ns
        visible = scene.tracks[: int(scene.id_map.max(initial=0))]
        shown = {track.track_id for track in visible}
        born = [e.track_id for e in scene.events if e.state is TrackState.CONFIRMED and e.track_id not in self._seen]
        for track in visible:
            if track.track_id in born and (old := self._lost_at(track, shown)):
                self._say(f"id switch {old} to {track.track_id}")
        for track in visible:
            if track.state is TrackState.CONFIRMED:
                self._seen[track.track_id] = track, now
        self._seen = {i: (t, seen) for i, (t, seen) in self._seen.items() if now - seen <= 2 * WITHIN_NS}

    def close(self) -> None:
        """Nothing is held."""

    def _lost_at(self, born: Track, shown: set[int]) -> int:
        """The id of the confirmed track that vanished where this one was born; 0 for none."""
        for track_id, (track, seen_ns) in self._seen.items():
            is_gone = track_id not in shown and abs(born.first_ns - seen_ns) <= WITHIN_NS
            if is_gone and track.class_id == born.class_id and _iou(track, born) >= LEAST_IOU:
                return track_id
        return 0


def _iou(a: Track, b: Track) -> float:
    return float(box_iou(np.array([a.box_xyxy], np.float64), np.array([b.box_xyxy], np.float64))[0, 0])

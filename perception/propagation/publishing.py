"""What a scene shows: the class map over time, and the masks of tracks painted on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.propagation import painting
from perception.propagation.stuff import StuffSmoother
from perception.propagation.tracks import Box, LiveTrack
from perception.types import VOID, Frame, Panoptic


class ClassMap:
    """The class of every pixel over time: the network's, smoothed or not, and what to think of frames it skipped.

    Args:
        size: width, height [px].
        classes: how many there are.
        things: class indices that are countable.
        smooths: give stuff temporal smoothing.
    """

    def __init__(self, size: tuple[int, int], classes: int, things: Collection[int], smooths: bool) -> None:
        self._size = size
        self._smoother = StuffSmoother(size, classes, things) if smooths else None
        self._is_stuff = np.full(256, 255, np.uint8)  # by class, as OpenCV's masks are
        self._is_stuff[list(things)] = 0
        self.reset()

    def reset(self) -> None:
        width, height = self._size
        self._stuff = np.full((height, width), VOID, np.uint8)  # what was last seen where no thing is
        if self._smoother:
            self._smoother.reset()

    def under(self, frame: Frame, seen: Panoptic | None) -> NDArray[np.uint8]:
        """(h, w) classes to paint tracks on; where the network did not look, the stuff it saw last."""
        if self._smoother:
            return self._smoother.step(frame, seen)
        if seen is None:
            return self._stuff.copy()
        labels = seen.labels.copy()
        cv2.copyTo(labels, cv2.LUT(labels, self._is_stuff), self._stuff)  # five times as fast as numpy
        return labels


class Picture:
    """The visible tracks of one frame in the order of its id map.

    Args:
        size: width, height [px].
        owners: detection -> its track.
        seen: what the network saw; None where it did not look.
    """

    def __init__(self, size: tuple[int, int], owners: dict[int, LiveTrack], seen: Panoptic | None) -> None:
        self.size, self._owners, self._seen = size, owners, seen
        self.tracks = list(dict.fromkeys(owners.values()))
        self._places = {track: k for k, track in enumerate(self.tracks, 1)}
        width, height = size
        if seen is None:
            self.id_map = np.zeros((height, width), np.uint16)
        else:
            self.id_map = painting.renumbered(seen, {j: self.place(t) for j, t in owners.items()})
        self._painted: list[tuple[int, Box]] = []

    @cached_property
    def _best(self) -> NDArray[np.float32]:
        """(h, w) probability of the carried mask that has a pixel; what is seen now is never painted over."""
        return np.where(self.id_map > 0, np.float32(2.0), np.float32(0.5))

    def place(self, track: LiveTrack) -> int:
        """The track's number in the id map."""
        return self._places[track]

    def add_carried(self, track: LiveTrack, probability: NDArray[np.float32]) -> tuple[NDArray[np.bool_], Box] | None:
        """Paint a carried mask where it is the likeliest; its crop and box, None where nothing of it is left."""
        if float(probability.max()) <= 0.5:
            return None
        large, box = painting.enlarged(probability)
        x0, y0, x1, y1 = box
        best = self._best[y0:y1, x0:x1]
        is_won = large > best
        mask = painting.without_specks(is_won)
        if mask is not is_won:
            mask &= is_won | (best <= 0.5)  # a hole that is another thing stays
        best[mask] = large[mask]
        return self._paint(track, mask, box)

    def add_moved(self, track: LiveTrack, to_xy: tuple[int, int]) -> tuple[NDArray[np.bool_], Box] | None:
        """Paint the track's last mask at another place, over nothing; None where nothing of it is left."""
        found = painting.moved(track.mask, to_xy, self.size)
        if found is None:
            return None
        mask, (x0, y0, x1, y1) = found
        best = self._best[y0:y1, x0:x1]
        mask = mask & (best <= 0.5)
        best[mask] = 1.0
        return self._paint(track, mask, (x0, y0, x1, y1))

    def _paint(self, track: LiveTrack, mask: NDArray[np.bool_], box: Box) -> tuple[NDArray[np.bool_], Box] | None:
        found = painting.tight(mask, box)
        if found is None:
            return None
        x0, y0, x1, y1 = box
        self.tracks.append(track)
        self._places[track] = len(self.tracks)
        self.id_map[y0:y1, x0:x1][mask] = len(self.tracks)
        self._painted.append((len(self.tracks), found[1]))
        return found

    def compose(
        self, classes: ClassMap, frame: Frame, seen: Panoptic | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """Labels and id map: of its class is what the network did not see there, or saw as another."""
        labels = classes.under(frame, seen)
        table = np.array([VOID, *(t.segment.class_id for t in self.tracks)], np.uint8)
        for number, (x0, y0, x1, y1) in (*self._painted, *self._renamed()):
            if table[number] != VOID:
                window = self.id_map[y0:y1, x0:x1] == number
                labels[y0:y1, x0:x1][window] = table[number]
        return labels, self.id_map

    def _renamed(self) -> Iterator[tuple[int, Box]]:
        """Numbers and boxes of the detections whose track is of another class."""
        for detection, track in self._owners.items():
            assert self._seen is not None
            segment = self._seen.segments[detection]
            if segment.class_id != track.segment.class_id:
                yield self.place(track), segment.box_xyxy

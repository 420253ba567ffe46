"""What happens to an id while its thing is hidden: a measure of this project."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from perception.evaluation.overlap import Overlap, track_ids
from perception.evaluation.segments import NUMBERS
from perception.evaluation.tracking import LEAST_IOU

EDGES_S = (0.0, 0.25, 0.75, 1.25, 2.0)
"""Between these, lengths of hiding are counted apart [s]; longer ones are not counted."""
SEARCH_S = 1.0
"""How long before and after it was hidden a thing's predicted id is looked for [s]."""


@dataclass
class _History:
    """One true track in one clip, by frame."""

    visible: list[int] = field(default_factory=list)
    slivers: set[int] = field(default_factory=set)  # too few pixels to count as visible
    hidden: set[int] = field(default_factory=set)  # known to be in the picture, behind something
    found: dict[int, int] = field(default_factory=dict)  # frame -> predicted track there


class Reidentification:
    """Counts of things that were wholly hidden and came back: id kept, a new one, or not found before or after.

    A gap runs from the last frame in which a thing has `least_area` pixels to the next, with at least one frame
    without any pixel between them. Where the truth says which things are hidden, it is a gap only if the thing was in
    the picture all the time: leaving it and coming back is another matter. The ids compared are those of the
    predicted tracks with a mask IoU of at least 0.5, the last such one before the gap and the first after it.

    Args:
        fps: [frames / s].
        least_area: [px of the picture].
    """

    def __init__(self, fps: float, least_area: int = 1) -> None:
        self.fps, self.least_area = fps, max(1, least_area)
        self.kept, self.new, self.unseen = np.zeros((3, len(EDGES_S) - 1), np.int64)
        self._histories: dict[int, _History] = {}
        self._frame = 0

    def add(self, overlap: Overlap, hidden: Collection[int] | None) -> None:
        """Count the next frame of a clip; `hidden` are numbers of things without a pixel in it, None if unknown."""
        areas = overlap.shared.sum(1)[1:]
        predicted = track_ids(overlap.predicted)
        iou = overlap.iou * (predicted > 0)
        for k, track in enumerate(track_ids(overlap.truth).tolist()):
            if not track:
                continue
            history = self._histories.setdefault(track, _History())
            if areas[k] < self.least_area:
                history.slivers.add(self._frame)
                continue
            history.visible.append(self._frame)
            if iou.shape[1] and iou[k].max() >= LEAST_IOU:
                history.found[self._frame] = int(predicted[iou[k].argmax()])
        for track, history in self._histories.items():
            if hidden is None or track % NUMBERS in hidden:
                history.hidden.add(self._frame)
        self._frame += 1

    def end_clip(self) -> None:
        """Count the gaps of the clip; the next frame is another clip's first."""
        for history in self._histories.values():
            for before, after in zip(history.visible, history.visible[1:], strict=False):
                self._count(history, before, after)
        self._histories, self._frame = {}, 0

    def _count(self, history: _History, before: int, after: int) -> None:
        absent = set(range(before + 1, after)) - history.slivers
        place = int(np.searchsorted(EDGES_S, (after - before - 1) / self.fps)) - 1
        if not absent or not absent <= history.hidden or place >= len(self.kept):
            return
        search = round(SEARCH_S * self.fps)
        old = [history.found[i] for i in range(before, before - search, -1) if i in history.found]
        back = [history.found[i] for i in range(after, after + search) if i in history.found]
        if not old or not back:
            self.unseen[place] += 1
        elif old[0] == back[0]:
            self.kept[place] += 1
        else:
            self.new[place] += 1

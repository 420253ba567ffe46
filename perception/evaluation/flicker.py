"""Temporal flicker: how often the predicted class of a pixel changes while the true one does not."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.segmentation import IGNORE


class Flicker:
    """Counts over pairs of consecutive frames of a fully labelled clip.

    A pixel is counted in a pair when its true class is the same, and not IGNORE, in both frames; it flickers when its
    predicted class differs. A wrong class that stays is no flicker, one that comes or goes is. Pixels are compared
    place by place: no motion is compensated, in neither map.
    """

    def __init__(self, classes: int) -> None:
        self.counted = np.zeros(classes, np.int64)
        self.changed = np.zeros(classes, np.int64)
        self.pairs = 0
        self._last: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def add(self, truth: NDArray[np.uint8], predicted: NDArray[np.uint8], follows: bool) -> None:
        """The next frame: (h, w) label maps; `follows` says that it comes right after the one added before."""
        last, self._last = self._last, (truth, predicted)
        if not follows or last is None or last[0].shape != truth.shape:
            return
        self.pairs += 1
        steady = (last[0] == truth) & (truth != IGNORE)
        flickers = steady & (last[1] != predicted)
        self.counted += np.bincount(truth[steady], minlength=len(self.counted))
        self.changed += np.bincount(truth[flickers], minlength=len(self.counted))

    def overall(self) -> float:
        """Share of the counted pixels that flicker; NaN without any."""
        return float(self.changed.sum() / self.counted.sum()) if self.counted.any() else float("nan")

    def by_class(self) -> NDArray[np.float64]:
        """The same share by true class; NaN for a class that was never steady."""
        return np.where(self.counted > 0, self.changed / np.maximum(self.counted, 1), np.nan)


def follows(names: Sequence[str]) -> list[bool]:
    """For each name, in order, whether it is the next frame after the one before it.

    Frames of one clip differ in the number that ends their names, by the same step forwards: the commonest of all.
    After a change of what stands before the number, and after a gap, a clip begins anew. Names without numbers all
    follow.
    """
    parts = [re.fullmatch(r"(.*?)(\d*)", name) for name in names]
    keys = [(m[1], int(m[2]) if m[2] else None) for m in parts if m]
    steps: list[int | None] = [None]
    for (clip, number), (next_clip, next_number) in itertools.pairwise(keys):
        if number is None or next_number is None:
            steps.append(0 if number is next_number else None)
        else:
            steps.append(next_number - number if clip == next_clip and next_number > number else None)
    usual = Counter(s for s in steps if s is not None).most_common(1)
    return [s is not None and s == usual[0][0] for s in steps]

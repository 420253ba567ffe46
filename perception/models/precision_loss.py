"""What a smaller precision costs, class by class: how far its class maps are from those in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.opencv import cv2

Labels = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""(h, w, 3) RGB -> (H, W) class indices, VOID where there is none."""
Progress = Callable[[str, int, int], None]  # what, done, of how many
MAX_LOSS, MAX_CLASS_LOSS = 5.0, 16.0  # [points of IoU] without truth: of thin classes every pixel of border counts
MAX_TRUE_LOSS, MAX_TRUE_CLASS_LOSS = 0.7, 3.0  # with truth
LEAST_SHARE = 0.001  # of the pixels: without truth, what a smaller class loses decides nothing


@dataclass(frozen=True)
class PrecisionLoss:
    """IoU by class, 0..1 and NaN for classes that nobody says."""

    classes: tuple[str, ...]
    before: NDArray[np.float64]  # float32 against the truth; 1 where there is no truth but float32 itself
    after: NDArray[np.float64]  # the smaller precision against the same
    equal: float  # share of pixels with the same class in both
    frames: int
    has_truth: bool
    shares: NDArray[np.float64]  # of the pixels that are of the class by the truth or by the smaller precision, 0..1

    @property
    def points(self) -> NDArray[np.float64]:
        """By class, what is lost [points of 100]."""
        return 100 * (self.before - self.after)

    @property
    def _decisive(self) -> NDArray[np.float64]:
        """The same, NaN for classes that are too small to decide."""
        return np.where(self.has_truth | (self.shares >= LEAST_SHARE), self.points, np.nan)

    @property
    def mean(self) -> float:
        """Lost by the mean over the classes [points of 100]."""
        return float(np.nanmean(self._decisive)) if np.isfinite(self._decisive).any() else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The class that loses most, and how much [points of 100]."""
        points = self._decisive
        if not np.isfinite(points).any():
            return "no class", 0.0
        i = int(np.nanargmax(points))
        return self.classes[i], float(points[i])

    def rows(self) -> list[tuple[str, float, float, float]]:
        """For a table: class, IoU before, IoU after, points lost; without the classes that nobody says."""
        known = [i for i, lost in enumerate(self.points) if np.isfinite(lost)]
        return [(self.classes[i], 100 * self.before[i], 100 * self.after[i], float(self.points[i])) for i in known]

    def require(self, max_loss: float | None = None, max_class_loss: float | None = None) -> None:
        """Refuse what loses more than it may [points]; None takes the limit for what it was measured against.

        Raises:
            ModelError: with what is lost, and the fix.
        """
        mean_limit, class_limit = (MAX_TRUE_LOSS, MAX_TRUE_CLASS_LOSS) if self.has_truth else (MAX_LOSS, MAX_CLASS_LOSS)
        mean_limit = mean_limit if max_loss is None else max_loss
        class_limit = class_limit if max_class_loss is None else max_class_loss
        name, points = self.worst
        if not self.mean <= mean_limit or not points <= class_limit:
            raise ModelError(
                f"this precision loses {self.mean:.2f} points of mean IoU against fp32 (at most {mean_limit:g}) and "
                f"{points:.2f} of {name} (at most {class_limit:g}); take another, or calibrate on this camera's frames"
            )


def precision_loss(
    reference: Labels,
    candidate: Labels,
    frames: Iterable[NDArray[np.uint8]],
    classes: Sequence[str],
    truths: Sequence[NDArray[np.uint8]] = (),
    progress: Progress = lambda _what, _done, _total: None,
) -> PrecisionLoss:
    """Run both on the same frames and compare.

    Args:
        reference: in float32.
        candidate: in the smaller precision.
        frames: (h, w, 3) RGB; real ones of the camera.
        classes: names by index.
        truths: (H', W') class indices of each frame, VOID where nothing is said; empty: float32 is the truth.
        progress: told of each frame.
    """
    kinds = len(classes)
    before, after = np.zeros((kinds, kinds + 1), np.int64), np.zeros((kinds, kinds + 1), np.int64)
    equal, count = 0.0, 0
    for count, image in enumerate(frames, 1):
        exact = reference(image).copy()
        given = candidate(image)
        equal += float((exact == given).mean())
        truth = truths[count - 1] if len(truths) else exact
        before += _confusion(truth, exact, kinds)
        after += _confusion(truth, given, kinds)
        progress("loss of precision", count, len(truths) or count)
    shares = _either(after) / max(1, after.sum())
    return PrecisionLoss(
        tuple(classes), _iou(before), _iou(after), equal / max(1, count), count, bool(len(truths)), shares
    )


def _confusion(truth: NDArray[np.uint8], said: NDArray[np.uint8], kinds: int) -> NDArray[np.int64]:
    """(kinds, kinds + 1) pixels by true class and said class, the last column for none; where there is a truth."""
    said = said if said.shape == truth.shape else _at(said, truth)
    known = truth < kinds
    column = np.where(said[known] < kinds, said[known], kinds).astype(np.int64)
    counts = np.bincount(truth[known].astype(np.int64) * (kinds + 1) + column, minlength=kinds * (kinds + 1))
    return counts.reshape(kinds, kinds + 1)


def _at(labels: NDArray[np.uint8], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.resize(labels, like.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def _iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """|truth and said| / |truth or said| of each class; NaN where both are empty."""
    either = _either(confusion)
    return np.where(either > 0, np.diag(confusion[:, :-1]) / np.maximum(either, 1), np.nan)


def _either(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """|truth or said| of each class [px]."""
    inner = confusion[:, :-1]
    return confusion.sum(1) + inner.sum(0) - np.diag(inner)

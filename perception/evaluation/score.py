"""The second loop: stored predictions against the truth, every metric that the truth allows. It runs no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.boundary import BoundaryF
from perception.evaluation.classes import ScoredClasses
from perception.evaluation.flicker import Flicker, follows
from perception.evaluation.instance_ap import InstanceAP
from perception.evaluation.panoptic_quality import PanopticQuality
from perception.evaluation.picture_headers import require_size
from perception.evaluation.segmentation import Confusion, image_dice
from perception.evaluation.segments import predicted_segments, small_as_crowd
from perception.evaluation.stored import StoredPrediction, read_prediction
from perception.evaluation.truth import Truth, TruthSet


class Scores:
    """Every metric's counts over a data set; those that its truth does not allow are None.

    Args:
        classes: what is scored.
        truth: decides which metrics there are.
        sequence: the pictures are a clip: count flicker.
        least_area: true instances with fewer pixels are crowds: neither missed nor wrong [px of the picture].

    Raises:
        ConfigError: the truth asks for mask AP and pycocotools is not installed.
    """

    def __init__(self, classes: ScoredClasses, truth: TruthSet, sequence: bool, least_area: int = 0) -> None:
        self._things, self._least_area = truth.things, least_area
        count = len(classes.names)
        self.classes, self.images = classes, 0
        self.confusion = Confusion(count) if truth.has_labels else None
        self.boundary = BoundaryF(count) if truth.has_labels else None
        self.flicker = Flicker(count) if truth.has_labels and sequence else None
        self.panoptic = PanopticQuality(truth.panoptic)
        self.instances = InstanceAP(truth.things) if truth.things else None
        self.image_dice = np.zeros(count)  # sum over images

    def add(self, truth: Truth, predicted: StoredPrediction, follows: bool) -> None:
        """Count one picture; `follows` says that it is the next frame after the one before."""
        self.images += 1
        lut = self.classes.lut
        labels = lut[predicted.labels]
        if truth.labels is not None:
            self._add_labels(truth.labels, labels, follows)
        listed = {k: (int(lut[class_id]), score) for k, (class_id, score) in predicted.segments.items()}
        found = predicted_segments(labels, predicted.instances, listed, self.classes.things)
        known = small_as_crowd(truth.segments, self._things, self._least_area)
        self.panoptic.add(known, found)
        if self.instances:
            self.instances.add(known, found)

    def _add_labels(self, truth: NDArray[np.uint8], labels: NDArray[np.uint8], follows: bool) -> None:
        if self.confusion and self.boundary:
            self.confusion.add(truth, labels)
            self.image_dice += image_dice(truth, labels, self.confusion.classes)
            self.boundary.add(truth, labels)
        if self.flicker:
            self.flicker.add(truth, labels, follows)


def score(predictions: Path, truth: TruthSet, scores: Scores, progress: Callable[[int, int], None]) -> None:
    """Add the predictions of all pictures that have a truth to `scores`.

    Raises:
        ConfigError: a prediction or a truth is missing, of another size, or not right.
    """
    for i, (name, is_next) in enumerate(zip(truth.names, follows(truth.names), strict=True), 1):
        known = truth.read(name)
        predicted = read_prediction(predictions, name, len(scores.classes.target))
        path = predictions / "labels" / f"{name}.png"
        require_size(path, predicted.labels.shape, known.segments.ids.shape, "its truth")
        scores.add(known, predicted, is_next)
        progress(i, len(truth.names))

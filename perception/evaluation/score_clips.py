"""The second loop, of clips: stored tracks against the truth, every metric that the truth allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from perception.evaluation.classes import ScoredClasses
from perception.evaluation.clear_mot import ClearMot
from perception.evaluation.clips import ClipSet
from perception.evaluation.flicker import Flicker
from perception.evaluation.hota import Hota
from perception.evaluation.identity import Identity
from perception.evaluation.overlap import Overlap, track_ids
from perception.evaluation.picture_headers import require_size
from perception.evaluation.quality_calibration import QualityCalibration
from perception.evaluation.region_contour import RegionContour
from perception.evaluation.reidentification import Reidentification
from perception.evaluation.segmentation_tracking import SegmentationTracking
from perception.evaluation.segments import SegmentMap, predicted_segments, small_as_crowd
from perception.evaluation.stored import StoredPrediction, read_prediction
from perception.evaluation.tracking import TrackingFrame, tracking_frame
from perception.evaluation.truth import Truth
from perception.evaluation.video_panoptic import VideoPanoptic
from perception.types import TrackState

COUNTED = frozenset((TrackState.TENTATIVE, TrackState.CONFIRMED))
"""States of a track whose mask counts as a prediction: all that a node publishes masks of."""


class Tracking:
    """The tracking metrics of some things; a clip's frames are gathered, and counted at its end."""

    def __init__(self) -> None:
        self.identity, self.clear, self.hota = Identity(), ClearMot(), Hota()

    def add(self, frames: list[TrackingFrame]) -> None:
        for metric in (self.identity, self.clear, self.hota):
            metric.add(frames)


class ClipScores:
    """Every metric's counts over a set of clips; those that its truth does not allow are None.

    Args:
        classes: what is scored.
        clips: decides which metrics there are.
        given: the truth of the first frames was given: count J and F.
        least_area: true things with fewer pixels are crowds where they have: neither missed nor wrong, and as good as
            hidden [px of the picture].
    """

    def __init__(self, classes: ScoredClasses, clips: ClipSet, given: bool, least_area: int = 0) -> None:
        truth, count = clips.truth, len(classes.names)
        self.classes, self.least_area, self.frames, self.clips = classes, least_area, 0, 0
        self.things = truth.things
        self.predicted_things = truth.things if clips.has_classes else classes.things | truth.things
        has_tracks = clips.has_ids and bool(truth.things)
        self.stq = SegmentationTracking(count, truth.things)
        self.has_labels, self.has_tracks = truth.has_labels, has_tracks
        self.vpq = VideoPanoptic(truth.panoptic) if clips.has_classes and truth.panoptic else None
        self.tracking = Tracking() if has_tracks else None
        self.by_class = {c: Tracking() for c in sorted(truth.things)} if has_tracks else {}
        self.jf = RegionContour() if has_tracks and given else None
        self.reidentification = Reidentification(clips.fps, least_area) if has_tracks else None
        self.calibration = QualityCalibration(truth.things) if has_tracks else None
        self.flicker = Flicker(count) if truth.has_labels else None
        self.true_tracks = self.predicted_tracks = 0
        self._gathered: dict[int, list[TrackingFrame]] = {}
        self._ids: tuple[set[int], set[int]] = set(), set()

    def add(self, clip: str, truth: Truth, predicted: StoredPrediction, follows: bool) -> None:
        """Count the next frame of a clip."""
        self.frames += 1
        known = small_as_crowd(truth.segments, self.things, self.least_area)
        overlap = Overlap(known, self._segments(predicted))
        if truth.labels is not None and self.flicker:
            labels = self.classes.lut[predicted.labels]
            self.stq.add_labels(truth.labels, labels)
            self.flicker.add(truth.labels, labels, follows)
        if self.vpq:
            self.vpq.add(overlap, follows)
        if self.has_tracks:
            self._add_tracks(clip, truth, overlap, predicted, is_given=self.jf is not None and not follows)

    def end_clip(self) -> None:
        """Count what can only be counted of a whole clip."""
        self.clips += 1
        for class_id, frames in self._gathered.items():
            self.by_class[class_id].add(frames)
            if self.tracking:
                self.tracking.add(frames)
        for metric in filter(None, (self.reidentification, self.calibration)):
            metric.end_clip()
        self.true_tracks += len(self._ids[0])
        self.predicted_tracks += len(self._ids[1])
        self._gathered, self._ids = {}, (set(), set())

    def _segments(self, predicted: StoredPrediction) -> SegmentMap:
        """The prediction without tracks in states that do not count."""
        lut = self.classes.lut
        kept = {k: t.track_id for k, t in predicted.tracks.items() if t.state in COUNTED}
        listed = {k: (int(lut[c]), score) for k, (c, score) in predicted.segments.items() if k in kept}
        return predicted_segments(lut[predicted.labels], predicted.instances, listed, self.predicted_things, kept)

    def _add_tracks(
        self, clip: str, truth: Truth, overlap: Overlap, predicted: StoredPrediction, is_given: bool
    ) -> None:
        self.stq.add(clip, overlap)
        for class_id in self.by_class:
            self._gathered.setdefault(class_id, []).append(tracking_frame(overlap, class_id))
        if self.jf:
            self.jf.add(clip, overlap)
        if self.reidentification:
            self.reidentification.add(overlap, truth.hidden)
        if self.calibration:
            self.calibration.add(overlap, {t.track_id: t for t in predicted.tracks.values()}, not is_given)
        for ids, segments in zip(self._ids, (overlap.truth, overlap.predicted), strict=True):
            shown = np.isin(segments.class_ids, list(self.things)) & ~segments.is_crowd
            ids.update(track_ids(segments)[shown].tolist())


def score_clips(predictions: Path, clips: ClipSet, scores: ClipScores, progress: Callable[[int, int], None]) -> None:
    """Add the predictions of all frames to `scores`.

    Raises:
        ConfigError: a prediction or a truth is missing, of another size, or not right.
    """
    done = 0
    for clip, names in clips.clips.items():
        for place, name in enumerate(names):
            known = clips.read(clip, name)
            predicted = read_prediction(predictions, name, len(scores.classes.target))
            path = predictions / "labels" / f"{name}.png"
            require_size(path, predicted.labels.shape, known.segments.ids.shape, "its truth")
            scores.add(clip, known, predicted, place > 0)
            done += 1
            progress(done, len(clips.truth.names))
        scores.end_clip()

"""The baseline propagator: class-gated mask association from frame to frame.

What every better propagator must beat (STEP's IoU tracker, Weber et al. 2021, section 4, with a life cycle).
"""

from __future__ import annotations

import numpy as np

from perception.errors import PromptError
from perception.propagation.change import NOT_LOOKED, Outlook, SceneChange
from perception.propagation.matching import match, similarities
from perception.propagation.tracks import FADED, LifeCycle, LiveTrack
from perception.types import VOID, Features, Frame, Panoptic, Prompt, Scene, Track, Validity

_NO_PROMPTS = "tracking.kind = 'iou' only repeats what the network sees; prompts need 'affinity' or 'memory'"


class IouPropagator:
    """Gives each thing the id of the track whose last mask it overlaps most.

    On frames that the network did not see, the last masks are repeated and marked as propagated.

    Args:
        mask_size: width, height of the masks [px], for frames before the network has looked at one.
        life: the rules of beginning and ending.
        least_iou: smallest overlap that can be the same thing.
    """

    needs_features = False

    def __init__(self, mask_size: tuple[int, int], life: LifeCycle, least_iou: float = 0.3) -> None:
        self.life, self.least_iou, self.change = life, least_iou, SceneChange()
        self.mask_size = width, height = mask_size
        self._labels = np.full((height, width), VOID, np.uint8)
        self._id_map = np.zeros((height, width), np.uint16)
        self._visible: list[LiveTrack] = []
        self._unseen = 0
        self._has_seen = False

    def step(self, frame: Frame, seen: Panoptic | None, features: Features | None = None) -> Scene:
        if reason := self.change.cut(frame):  # masks and overlap mean nothing across it
            self._start_anew(reason, frame.stamp_ns)
        if seen is None:
            self._unseen += 1
            for track in self._visible:
                track.observed, track.quality = False, FADED * track.quality
        else:
            self._associate(seen, frame.stamp_ns)
            self._labels, self._unseen, self._has_seen = seen.labels, 0, True
        return self._scene(frame)

    def outlook(self) -> Outlook:
        return self.change.outlook(self._has_seen)

    def prompt(self, prompt: Prompt) -> int:
        raise PromptError(_NO_PROMPTS)

    def remove(self, track_id: int) -> None:
        raise PromptError(_NO_PROMPTS)

    def relabel(self, track_id: int, class_id: int) -> None:
        raise PromptError(_NO_PROMPTS)

    def close(self) -> None:
        """Nothing to release."""

    def reset(self) -> None:
        self._start_anew("reset", self.change.stamp_ns or 0)

    def _start_anew(self, reason: str, stamp_ns: int) -> None:
        self.life.end_all(reason, stamp_ns)
        self._visible = []
        self._id_map = np.zeros_like(self._id_map)
        self._labels = np.full_like(self._labels, VOID)
        self._unseen, self._has_seen = 0, False

    def _associate(self, seen: Panoptic, stamp_ns: int) -> None:
        boxes = [s.box_xyxy for s in seen.segments]
        masks = [seen.id_map[y0:y1, x0:x1] == k + 1 for k, (x0, y0, x1, y1) in enumerate(boxes)]
        before = list(self.life.tracks)
        iou = similarities(
            [t.segment.box_xyxy for t in before],
            [t.mask for t in before],
            [t.segment.class_id for t in before],
            boxes,
            masks,
            [s.class_id for s in seen.segments],
        )
        owner: dict[int, LiveTrack] = {}
        for i, j in match(iou, self.least_iou):
            self.life.seen(before[i], seen.segments[j], masks[j], stamp_ns)
            owner[j] = before[i]
        continued = {t.track_id for t in owner.values()}
        for track in before:
            if track.track_id not in continued:
                self.life.missed(track, stamp_ns)
        for j, segment in enumerate(seen.segments):
            if j not in owner:
                owner[j] = self.life.begin(segment, masks[j], stamp_ns)
        self._visible = [owner[j] for j in range(len(seen.segments))]
        self._id_map = seen.id_map

    def _scene(self, frame: Frame) -> Scene:
        h, w = frame.image.shape[:2]
        validity, reason = self._validity(frame.stamp_ns)
        return Scene(
            frame_seq=frame.seq,
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            frame_size=(w, h),
            labels=self._labels,
            id_map=self._id_map,
            tracks=self._tracks(),
            events=self.life.take_events(),
            validity=validity,
            reason=reason,
            frames_since_network=self._unseen,
        )

    def _validity(self, stamp_ns: int) -> tuple[Validity, str]:
        if not self._has_seen:
            return Validity.FAILED, NOT_LOOKED
        if frozen := self.change.frozen(stamp_ns):
            return Validity.DEGRADED, frozen
        if self._unseen:
            return Validity.PROPAGATED, f"masks of {self._unseen} frames ago"
        return Validity.OBSERVED, ""

    def _tracks(self) -> tuple[Track, ...]:
        visible = [t.snapshot() for t in self._visible]
        shown = {t.track_id for t in self._visible}
        return (*visible, *(t.snapshot() for t in self.life.tracks if t.track_id not in shown))

"""What people say: things to follow, to forget, and to call by another class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import PromptError
from perception.looks import Looks
from perception.propagation import painting
from perception.propagation.claim import Claim
from perception.propagation.prompt_mask import mask_of_prompt
from perception.propagation.roster import Roster
from perception.propagation.tracks import LiveTrack, as_class
from perception.types import VOID, Frame, Prompt, Scene, Segment, TrackState


@dataclass(frozen=True, eq=False)
class Stepped:
    """The frame that was stepped last, which prompts refer to."""

    frame: Frame
    scene: Scene
    looks: Looks
    claim: Claim


@dataclass(frozen=True, eq=False)
class Prompting:
    """Does to the things followed what people want."""

    roster: Roster

    def prompt(self, prompt: Prompt, last: Stepped) -> LiveTrack:
        """The track that is meant, or a new one. Raises PromptError, with nothing changed."""
        mask = mask_of_prompt(prompt, last.frame, last.scene)
        track = self._meant(mask, last.scene) or self._begin(mask, prompt.class_id, last)
        if track.carriage and track.carriage.slot is None:
            self._pin(track, mask, last)
        if track.state is TrackState.TENTATIVE:
            self.roster.life.change(track, TrackState.CONFIRMED, "prompted", last.frame.stamp_ns)
        if prompt.class_id != VOID:
            self.relabel(track.track_id, prompt.class_id)
        track.prompted = True
        return track

    def _meant(self, mask: NDArray[np.bool_], scene: Scene) -> LiveTrack | None:
        """The visible track that the prompt's mask is, if it is one."""
        counts = np.bincount(scene.id_map[mask], minlength=1)
        place = int(counts[1:].argmax()) + 1 if len(counts) > 1 else 0
        if not place:
            return None
        union = int(mask.sum()) + int((scene.id_map == place).sum()) - int(counts[place])
        if counts[place] < self.roster.rules.same_thing * union:
            return None
        wanted = scene.tracks[place - 1].track_id
        track = next((t for t in self.roster.life.tracks if t.track_id == wanted), None)
        if track and track.carriage and track.carriage.slot is None:
            self._check_room()
        return track

    def _begin(self, mask: NDArray[np.bool_], class_id: int, last: Stepped) -> LiveTrack:
        if self.roster.is_full:
            raise PromptError(f"{self.roster.rules.most_tracks} tracks live, more are not followed; remove one first")
        self._check_room()
        crop, box = _cut(mask)
        segment = Segment(class_id, 1.0, int(np.count_nonzero(crop)), box)
        look = np.zeros(last.looks.depth, np.float32)  # learnt in the next frame, where it can't be had any more
        if last.looks.stays:
            look = last.looks.of(painting.cells_of(mask.astype(np.uint16), [box]), 1)[0]
        return self.roster.begin(segment, crop, look, last.frame.stamp_ns, "prompted")

    def _check_room(self) -> None:
        slots = self.roster.slots
        if not slots.has_room and slots.last_resort() is None:
            raise PromptError(f"all {len(slots.owners)} slots follow visible things; remove a track first")

    def _pin(self, track: LiveTrack, mask: NDArray[np.bool_], last: Stepped) -> None:
        """Give it a slot whose memory holds the prompt's frame for good."""
        slots, cells = self.roster.slots, last.claim.cells
        if not slots.has_room and (given_up := slots.last_resort()):
            self.roster.end(given_up, "hidden, and its slot went to a newer prompt", last.frame.stamp_ns)
        slot = slots.take_any(track)
        assert slot is not None  # there was room
        soft = np.zeros(cells.shape, np.float32)
        painting.soft_mask(mask.astype(np.uint16), 1, _cut(mask)[1], soft)
        slots.pin(track, soft, last.frame.stamp_ns)
        last.claim.areas[slot] = 0

    def remove(self, track_id: int, stamp_ns: int) -> None:
        self.roster.end(self.roster.life.alive(track_id), "removed on request", stamp_ns)

    def relabel(self, track_id: int, class_id: int) -> None:
        track = self.roster.life.alive(track_id)
        if track.carriage:
            track.carriage.decided = class_id
        track.segment = as_class(track.segment, class_id)


def _cut(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], painting.Box]:
    height, width = mask.shape
    found = painting.tight(mask, (0, 0, width, height))
    assert found is not None  # mask_of_prompt gives no empty masks
    return found

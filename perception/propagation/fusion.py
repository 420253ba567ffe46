"""The propagator: carries every mask into the frame of now, meets it with what the network sees, decides who is who.

The rules are those of SAM 3's video tracker (Carion et al. 2025, as its published code has them) where it has any:
match, birth only where nothing is carried, keep-alive, no overlap, reconditioning by key frames. Removal in a stream is
ours: a thing that the network denies for long enough, or that stays hidden for too long, ends.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from perception.errors import ModelError, PromptError
from perception.looks import Looks
from perception.propagation import painting
from perception.propagation.carrier import CELL, Carried, Carrier, Kept
from perception.propagation.change import NOT_LOOKED, Outlook, SceneChange
from perception.propagation.claim import claim, no_claim
from perception.propagation.coasting import Coasting
from perception.propagation.meeting import Meeting, Owners
from perception.propagation.prompting import Prompting, Stepped
from perception.propagation.publishing import ClassMap, Picture
from perception.propagation.roster import Roster
from perception.propagation.rules import FusionRules
from perception.propagation.seeding import Seed, sow
from perception.propagation.slots import SlotTable
from perception.propagation.tracks import LifeCycle, LiveTrack
from perception.types import VOID, Features, Frame, Panoptic, Prompt, Scene, Validity


class FusedPropagator:
    """Follows things by carried masks, corrected by the network whenever it looks.

    Args:
        mask_size: width, height of the masks [px].
        life: the rules of beginning and ending; `lost_for_ns` is how long a hidden thing may come back.
        carrier: what carries the masks.
        classes: how many the model has.
        things: class indices that are countable.
        smooths: give the class map temporal smoothing.
        rules: thresholds other than the usual ones.
    """

    needs_features = True

    def __init__(
        self,
        mask_size: tuple[int, int],
        life: LifeCycle,
        carrier: Carrier,
        classes: int,
        things: Collection[int],
        smooths: bool = True,
        rules: FusionRules | None = None,
    ) -> None:
        self.life, self.carrier, self.rules = life, carrier, rules or FusionRules()
        self.slots, self.change = SlotTable(carrier), SceneChange()
        self.classes = ClassMap(mask_size, classes, things, smooths)
        self.mask_size = mask_size
        self.roster = Roster(life, self.slots, self.rules)
        self.meeting, self.prompting = Meeting(self.roster), Prompting(self.roster)
        self._start_anew()

    def reset(self) -> None:
        self.life.end_all("reset", self.change.stamp_ns or 0)
        self._start_anew()

    def close(self) -> None:
        self.carrier.close()

    def _start_anew(self) -> None:
        self.slots.clear()
        self.classes.reset()
        width, height = self.mask_size
        self._claim = no_claim((height // CELL, width // CELL), self.carrier.slots)  # of the frame before
        self._masks = np.zeros((self.carrier.slots, *self._claim.cells.shape), np.float32)  # room for those of a frame
        self._last: Stepped | None = None
        self._key_ns: int | None = None
        self._unseen, self._has_seen, self._agreement = 0, False, 0.0
        self._seeds: list[Seed] = []  # masks from before a restart, for the first frame

    def step(self, frame: Frame, seen: Panoptic | None, features: Features | None = None) -> Scene:
        if features is None:
            raise ModelError("this model gives no features to carry masks by; tracking.kind = 'iou' needs none")
        now = frame.stamp_ns
        self._cut(frame)
        looks = Looks(features)
        carried = self._sown(self.carrier.carry(features, now), looks, now)
        self._claim = claim(carried, [slot for slot, _ in self.slots.followed()], self._claim.areas, self.rules)
        self._learn_looks(looks)
        owners = self._meet(seen, looks, carried, now)
        picture = Picture(self.mask_size, owners, seen)
        self._coast(owners, Coasting(self.roster, carried, self._claim, picture, now, seen is not None))
        scene = self._scene(frame, seen, picture)
        self._keep(owners, carried, picture, now)
        self._pin_seeds(picture, now)
        self._last = Stepped(frame, scene, looks, self._claim)
        return scene

    def outlook(self) -> Outlook:
        return self.change.outlook(self._has_seen)

    def _cut(self, frame: Frame) -> None:
        if self.change.stamp_ns is None:
            self._wake(frame.stamp_ns)
        reason = self.change.cut(frame)
        if reason:
            self.life.end_all(reason, frame.stamp_ns)
            self._start_anew()

    def _wake(self, stamp_ns: int) -> None:
        """Tracks from before a restart: up to the first frame nobody has looked for them either."""
        for carriage in (track.carriage for track in self.life.tracks):
            if carriage:
                carriage.down_ns += max(0, stamp_ns - carriage.motion.stamp_ns)  # which is when they were restored

    def _learn_looks(self, looks: Looks) -> None:
        """Of prompted things whose frame was gone from where its features lay: as they look where they are carried."""
        for slot, track in self.slots.followed():
            carriage = track.carriage
            if carriage and not carriage.pointer.any() and self._claim.shown[slot]:
                carriage.pointer = looks.of((self._claim.cells == slot + 1).astype(np.int64), 1)[0]

    def _meet(self, seen: Panoptic | None, looks: Looks, carried: Carried, stamp_ns: int) -> Owners:
        if seen is None:
            self._unseen += 1
            return {}
        self._has_seen, self._unseen = True, 0
        owners, self._agreement = self.meeting.meet(seen, looks, carried, self._claim, stamp_ns)
        return owners

    def _coast(self, owners: Owners, coasting: Coasting) -> None:
        met = set(owners.values())
        for track in [t for t in self.life.tracks if t not in met]:
            coasting.coast(track)

    # What is said, and what is remembered

    def _scene(self, frame: Frame, seen: Panoptic | None, picture: Picture) -> Scene:
        height, width = frame.image.shape[:2]
        labels, id_map = picture.compose(self.classes, frame, seen)
        visible = [t.snapshot() for t in picture.tracks]
        shown = {t.track_id for t in picture.tracks}
        validity, reason = self._validity(frame.stamp_ns)
        return Scene(
            frame_seq=frame.seq, stamp_ns=frame.stamp_ns, camera=frame.camera, frame_size=(width, height),
            labels=labels, id_map=id_map,
            tracks=(*visible, *(t.snapshot() for t in self.life.tracks if t.track_id not in shown)),
            events=self.life.take_events(), validity=validity, reason=reason, frames_since_network=self._unseen,
        )  # fmt: skip

    def _validity(self, stamp_ns: int) -> tuple[Validity, str]:
        if not self._has_seen:
            return Validity.FAILED, NOT_LOOKED
        frozen = self.change.frozen(stamp_ns)
        if frozen:
            return Validity.DEGRADED, frozen
        if self._unseen:
            return Validity.PROPAGATED, f"the network looked {self._unseen} frames ago; masks are carried"
        return Validity.OBSERVED, ""

    def _keep(self, owners: Owners, carried: Carried, picture: Picture, stamp_ns: int) -> None:
        """Tell the carrier what the frame shows."""
        masks = self._masks
        masks[:] = 0
        taught, seen_ns = np.zeros(len(masks), np.float32), np.full(len(masks), stamp_ns, np.int64)
        observed, total = set(owners.values()), np.zeros(masks.shape[1:], np.float32)
        for slot, track in self.slots.followed():
            seen_ns[slot] = track.last_ns
            taught[slot] = self._teach(slot, track, track in observed, carried, picture, masks[slot])
        self._cut_out(observed, masks)
        for slot, _ in self.slots.followed():
            total += masks[slot]
        is_crowded = total > 1
        if is_crowded.any():
            masks[:, is_crowded] /= total[is_crowded]
        is_key = bool(owners) and self._is_key(stamp_ns)
        self._key_ns = stamp_ns if is_key else self._key_ns
        qualities = [t.quality for t in picture.tracks]
        is_good = bool(owners) or (bool(qualities) and float(np.mean(qualities)) > 0.5)
        self.carrier.keep(Kept(masks, self.slots.active, taught, seen_ns, is_good, is_key))

    def _cut_out(self, observed: Collection[LiveTrack], masks: NDArray[np.float32]) -> None:
        """Take what the network sees out of the carried masks of no class, which it knows nothing of."""
        followed = [(slot, track, track.carriage) for slot, track in self.slots.followed() if track.carriage]
        unknown = [slot for slot, track, c in followed if c.class_seen == VOID and track not in observed]
        if unknown:
            seen = masks[[slot for slot, track, _ in followed if track in observed]].sum(0)
            masks[unknown] *= 1 - np.minimum(seen, 1)

    def _teach(
        self, slot: int, track: LiveTrack, is_observed: bool, carried: Carried, picture: Picture, out: NDArray
    ) -> float:
        """Write a thing's mask into `out`, the seen one or else the carried; how much it teaches."""
        carriage, share = track.carriage, self.rules.pointer_share
        assert carriage is not None
        if is_observed:
            painting.soft_mask(picture.id_map, picture.place(track), track.segment.box_xyxy, out)
            is_new, carriage.is_learnt = not carriage.is_learnt, True
            if is_new:
                self._claim.areas[slot] = 0  # of the slot's owner before
            return 1.0 if is_new else share
        if self._claim.shown[slot] and not track.is_hidden:
            out[:] = carried.masks[slot]
            return 0.5 * share if track.quality > 0.5 else 0.0
        return 0.0

    def _is_key(self, stamp_ns: int) -> bool:
        if self._key_ns is None:
            return True
        return stamp_ns - self._key_ns >= self.rules.key_every_ns and self._agreement >= self.rules.key_agreement

    # What a process before this one has known

    def seed(self, seed: Seed) -> None:
        """Look for a prompted track, whose memory is gone, in the first frame."""
        self.slots.take(seed.track)
        self._seeds.append(seed)

    def _sown(self, carried: Carried, looks: Looks, stamp_ns: int) -> Carried:
        if not self._seeds:
            return carried
        carried, missing = sow(carried, self._seeds, looks, stamp_ns)
        self._seeds = [seed for seed in self._seeds if seed.track not in missing]
        for track in missing:
            self.slots.free(track)
            if track.segment.class_id == VOID:  # the network can't find it either
                self.roster.end(track, "not found after a restart", stamp_ns)
        return carried

    def _pin_seeds(self, picture: Picture, stamp_ns: int) -> None:
        for track in (seed.track for seed in self._seeds):
            if track in picture.tracks:
                soft = np.zeros(self._claim.cells.shape, np.float32)
                painting.soft_mask(picture.id_map, picture.place(track), track.segment.box_xyxy, soft)
                self.slots.pin(track, soft, stamp_ns)
        self._seeds = []

    # What people say

    def prompt(self, prompt: Prompt) -> int:
        if self._last is None:
            raise PromptError("no frame has come yet; there is nothing to point at")
        return self.prompting.prompt(prompt, self._last).track_id

    def remove(self, track_id: int) -> None:
        self.prompting.remove(track_id, self.change.stamp_ns or 0)

    def relabel(self, track_id: int, class_id: int) -> None:
        self.prompting.relabel(track_id, class_id)

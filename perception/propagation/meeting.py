"""What the network says, met with what is carried: which of its detections is which track, and which are new."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.looks import Looks
from perception.propagation import painting
from perception.propagation.association import Detections, associate, known_of
from perception.propagation.carrier import Carried
from perception.propagation.claim import Claim
from perception.propagation.roster import Roster
from perception.propagation.tracks import LiveTrack, as_class
from perception.types import VOID, Panoptic, Segment, TrackState

Owners = dict[int, LiveTrack]  # detection -> its track
Parts = list[tuple[LiveTrack, list[int]]]  # each track with its detections
_FEW_CELLS = 3  # of a carried mask, up to which its overlap says little
_FAIR_SHARE = 0.25  # of a carried mask of no class that a detection in it must have to be of that thing


@dataclass(frozen=True, eq=False)
class Meeting:
    """Meets what the network sees with what is carried: the rules of SAM 3 (Carion et al. 2025)."""

    roster: Roster

    def meet(self, seen: Panoptic, looks: Looks, carried: Carried, claim: Claim, stamp_ns: int) -> tuple[Owners, float]:
        """Each detection's track, followed or new, if it is either; and how well what is carried agrees with them.

        The agreement is the mean IoU of carried and seen masks over the matched things that are carried.
        """
        met, cells = _detections(seen, looks)
        common = claim.common(cells, len(met.boxes))
        owners, agreement = self._matched(met, common, carried, claim, stamp_ns)
        for j in set(range(len(met.boxes))) - set(owners):
            whole = self._whole(seen.segments[j], common[:, j], int(met.cells[j]), claim)
            if whole:
                owners[j] = whole
        parts, doubted = self._doubted(_by_track(owners), met, common, carried, claim)
        owners = {j: track for j, track in owners.items() if j not in doubted}
        for track, detections in parts:
            self._confirm(track, seen, detections, met, stamp_ns)
        # only now, as until confirmed a thing that was hidden might lose its slot
        for track, detections in parts:
            self.roster.carry(track, int(met.cells[detections].sum()))
        for j in range(len(met.boxes)):
            if j in owners or j in doubted:
                continue
            if self._is_new(seen.segments[j], common[:, j], int(met.cells[j]), claim):
                segment, mask = painting.union(seen, [j])
                owners[j] = self.roster.begin(segment, mask, met.looks[j], stamp_ns, "first seen")
                self.roster.carry(owners[j], int(met.cells[j]))
        return owners, agreement

    def _matched(
        self, met: Detections, common: NDArray[np.int64], carried: Carried, claim: Claim, stamp_ns: int
    ) -> tuple[Owners, float]:
        tracks = list(self.roster.life.tracks)
        rows = np.array([-1 if t.carriage is None or t.carriage.slot is None else t.carriage.slot for t in tracks], int)
        shared = np.where(rows[:, None] >= 0, common[rows], 0)
        carried_cells = np.where(rows >= 0, claim.areas[rows], 0)
        known = known_of(tracks, carried_cells, stamp_ns, met.looks.shape[1])
        matched = associate(known, met, shared)
        return {j: tracks[i] for j, i in matched.items()}, _agreement(matched, shared, carried_cells, met.cells)

    def _doubted(
        self, parts: Parts, met: Detections, common: NDArray[np.int64], carried: Carried, claim: Claim
    ) -> tuple[Parts, set[int]]:
        """What is believed, and detections that say where a thing is but not how it lies: its carried mask stays.

        A thing's parts are judged together: a speck within it is all that the network saw of it, or one of several.
        """
        rules, believed, doubted = self.roster.rules, [], set()
        for track, detections in parts:
            slot = track.carriage.slot if track.carriage else None
            if slot is None or track.state is not TrackState.CONFIRMED or not claim.shown[slot]:
                believed.append((track, detections))
                continue
            least = rules.prompted_agreement if track.prompted else rules.mask_agreement
            both = common[slot, detections].sum()
            iou = both / max(1, claim.areas[slot] + met.cells[detections].sum() - both)
            if iou < least and (track.prompted or carried.quality[slot] >= rules.sure_quality):
                doubted.update(detections)
                assert track.carriage is not None
                track.carriage.denied_since_ns = None
            else:
                believed.append((track, detections))
        return believed, doubted

    def _whole(self, segment: Segment, common: NDArray[np.int64], cells: int, claim: Claim) -> LiveTrack | None:
        """The track that a detection is but a part of: most of it lies where that one is carried."""
        shares = self._shares(segment.class_id, common, cells, claim)
        best = int(shares.argmax())
        if not cells or not shares[best] or shares[best] < self.roster.rules.covered * cells:
            return None
        return self.roster.slots.owners[best]

    def _confirm(self, track: LiveTrack, seen: Panoptic, parts: list[int], met: Detections, stamp_ns: int) -> None:
        """The network sees it in this frame, whole or in parts."""
        carriage = track.carriage
        assert carriage is not None
        segment, mask = painting.union(seen, parts)
        carriage.votes[segment.class_id] += 1
        self.roster.life.seen(track, as_class(segment, carriage.class_id), mask, stamp_ns)
        share, look = self.roster.rules.pointer_share, met.looks[max(parts, key=lambda j: met.cells[j])]
        pointer = (1 - share) * carriage.pointer + share * look
        carriage.pointer = pointer / max(1e-6, math.sqrt(pointer @ pointer))
        carriage.locate(segment, stamp_ns)
        carriage.shown()
        carriage.denied_since_ns, carriage.misses = None, 0

    def _is_new(self, segment: Segment, common: NDArray[np.int64], cells: int, claim: Claim) -> bool:
        """SAM 3's birth: sure enough, and not covered by what is carried, by one thing or by several."""
        rules = self.roster.rules
        is_taken = self._shares(segment.class_id, common, cells, claim).sum() > rules.taken * cells
        least = rules.sure_birth_score if is_taken else rules.birth_score
        return segment.score >= least and not self.roster.is_full

    def _shares(self, class_id: int, common: NDArray[np.int64], cells: int, claim: Claim) -> NDArray[np.int64]:
        """(slots,) cells of a detection where a followed thing of its class is carried, or one of no class.

        The latter only where the detection is a speck or has a fair share of it: else it is a thing before it.
        """
        shares, is_speck = np.zeros_like(common), cells < self.roster.rules.slot_cells
        for slot, track in self.roster.slots.followed():
            carriage = track.carriage
            if carriage is None or carriage.class_seen not in (class_id, VOID):
                continue
            is_same = class_id in (carriage.class_seen, carriage.class_id)
            if is_same or is_speck or common[slot] >= _FAIR_SHARE * claim.areas[slot]:
                shares[slot] = common[slot]
        return shares


def _detections(seen: Panoptic, looks: Looks) -> tuple[Detections, NDArray[np.int64]]:
    """What the network saw, and its id map on the grid of carried masks."""
    segments = seen.segments
    boxes = [s.box_xyxy for s in segments]
    cells = painting.cells_of(seen.id_map, boxes)
    areas = np.bincount(cells.ravel(), minlength=len(segments) + 1)[1:]
    classes = np.array([s.class_id for s in segments], np.int64)
    found = seen.looks if seen.looks is not None else looks.of(cells, len(segments))
    # one pixel that is no number would make every look none, and a track's for good
    found = np.where(np.isfinite(found).all(1, keepdims=True), found, np.float32(0))
    return Detections(np.array(boxes, np.float64).reshape(-1, 4), classes, areas, found), cells


def _by_track(owners: Owners) -> Parts:
    """Each track with its detections, which are several where the network has split a thing."""
    parts: dict[LiveTrack, list[int]] = {}
    for j, track in owners.items():
        parts.setdefault(track, []).append(j)
    return list(parts.items())


def _agreement(
    matched: Mapping[int, int], common: NDArray[np.int64], carried: NDArray[np.int64], seen: NDArray[np.int64]
) -> float:
    pairs = [(i, j) for j, i in matched.items() if carried[i] > _FEW_CELLS]
    if not pairs:
        return 0.0
    i, j = np.array(pairs).T
    both = common[i, j]
    return float((both / (carried[i] + seen[j] - both)).mean())

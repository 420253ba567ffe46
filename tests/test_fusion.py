"""The fused propagator's behaviour over frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perception.errors import ModelError
from perception.propagation.carrier import Carried
from perception.propagation.rules import FusionRules
from perception.types import VOID, Features, Frame, TrackState, Validity
from tests.fakes import PERIOD_NS, FakeCarrier, features, picture, view
from tests.walk import CAR, SECOND_NS, Walk, iou, noise, said

# Life


def test_a_birth_waits_for_its_hits():
    scenes = Walk().steps(*[view(CAR)] * 4)
    assert [s.tracks[0].state for s in scenes] == [TrackState.TENTATIVE] * 2 + [TrackState.CONFIRMED] * 2
    assert [said(s) for s in scenes] == [[(1, TrackState.TENTATIVE)], [], [(1, TrackState.CONFIRMED)], []]
    assert {s.tracks[0].track_id for s in scenes} == {1}


def test_an_unsure_detection_begins_no_track():
    assert Walk().step(view(CAR, score=0.45)).tracks == ()


@pytest.mark.parametrize(("score", "tracks"), [(0.64, [1, 2]), (0.65, [1, 2, 3])])
def test_a_detection_over_several_things_begins_a_track_only_where_it_is_sure(score: float, tracks: list[int]):
    walk = Walk()
    for _ in range(3):
        walk.step(view(CAR, (2, 72, 16, 104, 48)))
    scene = walk.step(view((2, 16, 4, 128, 56), score=score))
    assert sorted(t.track_id for t in scene.tracks) == tracks


@pytest.mark.parametrize("misses", [0, 1])
def test_a_tentative_track_ends_with_one_miss_more_than_it_may_have(misses: int):
    walk = Walk(rules=FusionRules(tentative_misses=misses))
    *before, last = walk.steps(view(CAR), *[view()] * (misses + 1))
    assert [[t.track_id for t in s.tracks] for s in before] == [[1]] * (1 + misses)
    assert [(e.state, e.reason) for e in last.events] == [(TrackState.ENDED, "not confirmed")]
    assert last.tracks == ()
    assert FusionRules().tentative_misses == 0


def test_what_the_network_misses_is_carried():
    walk = Walk()
    before = walk.confirmed(CAR)
    scene = walk.step(view())
    track = scene.tracks[0]
    assert (track.track_id, track.state, track.observed) == (1, TrackState.CONFIRMED, False)
    assert 0 < track.quality < before.tracks[0].quality  # the network has looked, and not seen it
    assert track.last_ns == before.stamp_ns
    assert iou(scene.id_map == 1, before.id_map == 1) > 0.97  # its corners are rounded
    assert (scene.labels[scene.id_map == 1] == 2).all()


def test_a_frame_that_the_network_skips_makes_a_mask_no_worse():
    walk = Walk()
    before = walk.confirmed(CAR)
    track = walk.step().tracks[0]
    assert track.quality == before.tracks[0].quality  # the carrier thinks better of it, but nothing was seen


def test_a_carried_mask_goes_where_the_carrier_says():
    walk = Walk()
    walk.confirmed(CAR)
    walk.carrier.move_cells = (2, 1)
    track = walk.step(view()).tracks[0]
    assert track.box_xyxy == (40, 20, 72, 52)


def test_what_the_network_denies_is_lost_after_its_time():
    walk = Walk()
    walk.confirmed(CAR)
    scene, seconds = walk.until(TrackState.LOST, view())
    denied_s = walk.propagator.rules.denied_ns / 1e9
    assert denied_s <= seconds < denied_s + 0.04
    assert [e.reason for e in scene.events] == ["the network does not see it any more"]
    assert not scene.id_map.any()


@pytest.mark.parametrize("every", [5, 15, 30])
def test_one_look_that_misses_it_loses_nothing_however_rare_looks_are(every: int):
    walk = Walk()
    for i in range(8 * every):
        looks = view() if i == 5 * every else view(CAR)
        scene = walk.step(None if i % every else looks)
        if i >= 3 * every:
            assert not scene.events
            assert scene.id_map.any()


@pytest.mark.parametrize(("every", "looks"), [(5, 4), (15, 2), (30, 2)])
def test_where_looks_are_rare_the_one_that_denies_it_for_long_enough_loses_it(every: int, looks: int):
    walk = Walk()
    for i in range(3 * every):
        walk.step(None if i % every else view(CAR))
    states = [walk.step(None if i % every else view()).tracks[0].state for i in range(looks * every)]
    lost = (looks - 1) * every
    assert states == [TrackState.CONFIRMED] * lost + [TrackState.LOST] * (looks * every - lost)


def test_a_lost_track_is_found_again_with_its_id():
    walk = Walk()
    walk.confirmed(CAR)
    walk.until(TrackState.LOST, view())
    scene = walk.step(view(CAR))
    assert (said(scene), scene.events[0].reason) == ([(1, TrackState.CONFIRMED)], "found again")
    assert scene.tracks[0].observed


def test_a_lost_track_ends_after_its_time_with_a_reason():
    walk = Walk(lost_for_ns=SECOND_NS)
    walk.confirmed(CAR)
    walk.until(TrackState.LOST, view())
    scene, seconds = walk.until(TrackState.ENDED, view())
    assert 1.0 <= seconds + PERIOD_NS / 1e9 < 1.07
    assert scene.events[0].reason.startswith("not seen for 1.0")
    assert scene.tracks == ()


def test_what_has_driven_out_of_the_picture_ends():
    walk = Walk()
    for x in range(32, 121, 8):
        walk.step(view((2, x, 16, min(x + 32, 128), 48)))
    walk.carrier.presence[0] = 0
    scene, seconds = walk.until(TrackState.ENDED, view())
    assert scene.events[-1].reason == "left the picture"
    assert seconds < 0.5


def test_what_stands_still_at_the_border_is_waited_for():
    walk = Walk(lost_for_ns=SECOND_NS)
    for _ in range(3):
        walk.step(view((2, 112, 16, 128, 48)))
    walk.carrier.presence[0] = 0
    scene, _ = walk.until(TrackState.ENDED, view())
    assert scene.events[-1].reason.startswith("not seen for 1.0")


def hidden_walk(look: int = 3) -> Walk:
    """A confirmed thing of a look that has been hidden for half a second."""
    walk = Walk()
    for _ in range(3):
        walk.step(view(CAR), features((look, *CAR[1:])))
    walk.carrier.presence[0] = 0
    scene = walk.step(view())
    assert said(scene) == [(1, TrackState.OCCLUDED)]
    assert scene.events[0].reason == "hidden: presence 0.00"
    assert not scene.id_map.any()
    walk.steps(*[view()] * 15)
    return walk


def test_a_hidden_thing_is_known_again_by_its_look_and_place():
    walk = hidden_walk(look=3)
    scene = walk.step(view((2, 48, 16, 80, 48)), features((3, 48, 16, 80, 48)))
    assert said(scene) == [(1, TrackState.CONFIRMED)]


def test_another_look_in_the_same_place_is_another_thing():
    walk = hidden_walk(look=3)
    scene = walk.step(view(CAR), features((5, *CAR[1:])))
    assert (2, TrackState.TENTATIVE) in said(scene)
    assert scene.tracks[0].track_id == 2


def test_another_class_of_the_same_look_is_another_thing():
    walk = hidden_walk(look=3)
    scene = walk.step(view((3, 48, 16, 80, 48)), features((3, 48, 16, 80, 48)))
    assert scene.tracks[0].track_id == 2


def test_what_is_hidden_in_skipped_frames_comes_back_by_the_carrier():
    walk = Walk()
    walk.confirmed(CAR)
    walk.carrier.presence[0] = 0.2
    assert said(walk.step()) == [(1, TrackState.OCCLUDED)]
    walk.carrier.presence[0] = 0.9
    scene = walk.step()
    assert [(e.state, e.reason) for e in scene.events] == [(TrackState.CONFIRMED, "visible again")]
    assert scene.id_map.any()


def test_a_thing_whose_mask_shrinks_to_a_remnant_is_hidden():
    walk = Walk()
    walk.confirmed(CAR)
    walk.carrier.move_cells = (0, -11)  # 12 rows of cells lead out of the picture at its top, one is left
    walk.step(view())
    assert walk.step(view()).tracks[0].state is TrackState.OCCLUDED


def test_the_class_is_the_one_seen_most_often():
    walk = Walk()
    walk.confirmed(CAR)
    van = view((3, *CAR[1:]))
    classes = [walk.step(van).tracks[0].class_id for _ in range(4)]
    assert classes == [2, 2, 2, 3]
    assert walk.propagator.life.next_id == 2


def test_two_parts_of_a_carried_thing_are_one_thing():
    walk = Walk()
    walk.confirmed(CAR)
    scene = walk.step(view((2, 32, 16, 44, 48), (2, 48, 16, 64, 48)))
    assert [t.track_id for t in scene.tracks] == [1]
    assert scene.tracks[0].box_xyxy == CAR[1:]


def test_a_speck_of_a_thing_does_not_become_the_whole_of_it():
    walk = Walk()
    walk.confirmed(CAR)
    scene = walk.step(view((2, 34, 20, 40, 26)))
    assert [(t.track_id, t.observed, t.box_xyxy) for t in scene.tracks] == [(1, False, CAR[1:])]
    assert not scene.events
    assert walk.step().tracks[0].box_xyxy == CAR[1:]


def test_a_speck_beside_a_detection_of_several_does_not_become_the_whole_either():
    walk = Walk()
    walk.confirmed(CAR)
    scene = walk.step(view((2, 32, 16, 128, 48), (2, 34, 20, 40, 26)))
    assert (scene.tracks[0].track_id, scene.tracks[0].box_xyxy) == (1, CAR[1:])


def test_a_feature_that_is_no_number_costs_no_id():
    walk = Walk()
    for _ in range(3):
        walk.step(view(CAR), features(CAR))
    broken = features(CAR)
    broken.fine4[0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        walk.step(view(CAR), broken)
    away = (2, 41, 16, 73, 48)
    scene = walk.step(view(away), features(away))
    assert [t.track_id for t in scene.tracks] == [1]


def test_what_is_covered_is_hidden_and_not_denied():
    walk = Walk()
    walk.confirmed(CAR)
    scene = walk.step(view((3, 16, 0, 96, 64)))
    reasons = {e.track_id: (e.state, e.reason) for e in scene.events}
    assert reasons[1] == (TrackState.OCCLUDED, "hidden: covered by other things")


def test_a_things_last_mask_is_moved_on_while_it_is_too_small_to_be_carried():
    walk = Walk()
    for i in range(3):
        walk.step(view((2, 20 + 4 * i, 20, 23 + 4 * i, 23)))
    scene = walk.step()
    assert (scene.tracks[0].state, scene.tracks[0].observed) == (TrackState.CONFIRMED, False)
    assert scene.tracks[0].box_xyxy == (32, 20, 35, 23)


# What is said


def test_before_the_network_has_looked_nothing_is_claimed():
    scene = Walk().step()
    assert (scene.validity, scene.reason) == (
        Validity.FAILED, "the network has not looked at any frame of this scene yet"
    )  # fmt: skip
    assert (scene.labels == VOID).all()
    assert scene.tracks == ()


def test_a_model_without_features_is_told_of_what_would_do():
    with pytest.raises(ModelError, match=r"tracking\.kind = 'iou'"):
        Walk().propagator.step(picture(0), view(CAR), None)


def test_skipped_frames_say_how_long_they_are_carried():
    walk = Walk()
    walk.confirmed(CAR)
    scenes = walk.steps(*[None] * 5)
    assert [s.validity for s in scenes] == [Validity.PROPAGATED] * 5
    assert [s.frames_since_network for s in scenes] == [1, 2, 3, 4, 5]
    assert "looked 5 frames ago" in scenes[-1].reason
    assert [s.tracks[0].observed for s in scenes] == [False] * 5
    seen = walk.step(view(CAR))
    assert (seen.validity, seen.reason, seen.frames_since_network) == (Validity.OBSERVED, "", 0)


class Hopeful(FakeCarrier):
    """Thinks better of its masks from frame to frame."""

    def carry(self, features: Features, stamp_ns: int) -> Carried:
        quality = np.full(self.slots, min(1.0, 0.1 + stamp_ns / SECOND_NS), np.float32)
        return replace(super().carry(features, stamp_ns), quality=quality)


def test_the_quality_of_a_carried_mask_does_not_rise_with_its_age():
    walk = Walk(Hopeful())
    walk.confirmed(CAR)
    qualities = [s.tracks[0].quality for s in walk.steps(*[None] * 8)]
    assert qualities == sorted(qualities, reverse=True)


def test_a_frozen_camera_is_said_and_forgotten_when_it_lives_again():
    walk = Walk()
    walk.confirmed(CAR)
    still = picture(50).image
    frozen = [walk.step(view(CAR), frame=Frame(i, i * PERIOD_NS, "front", still)) for i in range(3, 15)]
    assert [s.validity for s in frozen[:10]] == [Validity.OBSERVED] * 10
    assert frozen[10].validity is Validity.DEGRADED
    assert frozen[10].reason == "the camera has given the same picture for 0.3 s"
    assert {t.track_id for s in frozen for t in s.tracks} == {1}
    walk.i = 15
    assert walk.step(view(CAR)).validity is Validity.OBSERVED


CUTS = {
    "the picture jumped": noise(3, seed=2),
    "frames of 96x48 after 128x64": noise(3, seed=1, size=(48, 96)),
    "time jumped by -0.07 s": Frame(3, 0, "front", noise(3, seed=1).image),
    "time jumped by 9.93 s": Frame(3, 10 * SECOND_NS, "front", noise(3, seed=1).image),
}


@pytest.mark.parametrize("reason", CUTS)
def test_a_cut_ends_all_tracks_with_its_reason(reason: str):
    walk = Walk()
    for i in range(3):
        walk.step(view(CAR, (3, 80, 16, 96, 32)), frame=noise(i, seed=1))
    scene = walk.step(view(CAR), frame=CUTS[reason])
    assert said(scene) == [(1, TrackState.ENDED), (2, TrackState.ENDED), (3, TrackState.TENTATIVE)]
    assert {e.reason for e in scene.events[:2]} == {reason}
    assert [t.track_id for t in scene.tracks] == [3]


def test_after_a_cut_nothing_old_is_shown_until_the_network_looks():
    walk = Walk()
    for i in range(3):
        walk.step(view(CAR), frame=noise(i, seed=1))
    scene = walk.step(None, frame=noise(3, seed=2))
    assert scene.validity is Validity.FAILED
    assert not scene.id_map.any()
    assert (scene.labels == VOID).all()


def test_two_hundred_detections_give_a_scene_and_fill_the_slots():
    boxes = [(2, x, y, x + 6, y + 6) for y in range(0, 60, 6) for x in range(0, 120, 6)]
    walk = Walk()
    first, *_, last = walk.steps(*[view(*boxes)] * 4)
    assert len(boxes) == len(first.tracks) == 200
    assert sum(owner is not None for owner in walk.propagator.slots.owners) == 32
    assert [t.track_id for t in last.tracks] == [t.track_id for t in first.tracks]
    assert {t.state for t in last.tracks} == {TrackState.CONFIRMED}


def test_there_are_never_more_tracks_than_the_most():
    walk, scene = Walk(), None
    for shift in range(3):
        boxes = [(2 + shift % 2, x, y, x + 4, y + 4) for y in range(shift, 60, 6) for x in range(shift, 120, 6)][:200]
        scene = walk.steps(*[view(*boxes)] * 3)[-1]
    assert scene
    assert len(scene.tracks) == 256
    assert len(np.unique(scene.id_map)) - 1 <= 256


# Slots


def test_the_thing_hidden_longest_gives_its_slot_to_a_new_one():
    walk = Walk(FakeCarrier(slots=2))
    walk.confirmed(CAR, (2, 96, 16, 112, 32))
    walk.carrier.presence[:] = 0
    walk.step(view((2, 96, 16, 112, 32)))
    walk.step(view())
    walk.carrier.presence[:] = 1
    walk.step(view((3, 0, 0, 16, 16)))
    assert walk.carrier.told == [("forget", 0)]
    owner = walk.propagator.slots.owners[0]
    assert owner is not None
    assert owner.track_id == 3


def test_a_thing_that_gets_its_slot_late_is_learnt_in_that_frame():
    walk = Walk(FakeCarrier(slots=1))
    walk.confirmed(CAR, (3, 96, 16, 112, 32))
    walk.propagator.remove(1)
    walk.step(view((3, 96, 16, 112, 32)))
    assert walk.carrier.told == [("forget", 0)]
    assert walk.carrier.kept[0].taught[0] == 1.0


def test_what_is_kept_are_the_seen_masks_and_the_carried_ones():
    walk = Walk()
    walk.confirmed(CAR, (3, 80, 16, 96, 32))
    walk.step(view(CAR))
    kept = walk.carrier.kept[0]
    assert kept.active.tolist() == [True, True] + [False] * 30
    assert kept.masks[0, 4:12, 8:16].min() == 1.0
    assert kept.masks[1, 4:8, 20:24].min() == 1.0
    assert kept.masks.sum() == 8 * 8 + 4 * 4
    assert kept.seen_ns[:2].tolist() == [3 * PERIOD_NS, 2 * PERIOD_NS]


def test_a_thing_that_comes_back_keeps_its_slot_before_one_that_has_none():
    walk = Walk(FakeCarrier(slots=1))
    other = (3, 96, 16, 112, 32)
    walk.confirmed((2, 8, 8, 14, 14), other)  # the first is too small for a slot
    walk.carrier.presence[0] = 0
    walk.step()
    scene = walk.step(view((2, 8, 8, 16, 16), other))  # now it is large enough
    assert {t.track_id for t in scene.tracks if t.observed} == {1, 2}
    owner = walk.propagator.slots.owners[0]
    assert owner is not None
    assert owner.track_id == 2

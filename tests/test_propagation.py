from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.propagation.iou import IouPropagator
from perception.propagation.matching import mask_iou, match
from perception.propagation.tracks import LifeCycle
from perception.types import VOID, Frame, Scene, TrackState, Validity
from tests.fakes import PERIOD_NS, SIZE, frame, seen
from tests.walk import noise


@pytest.fixture
def propagator() -> IouPropagator:
    return IouPropagator((SIZE[1], SIZE[0]), LifeCycle())


def walk(propagator: IouPropagator, *views, start: int = 0) -> list[Scene]:
    return [propagator.step(frame(start + i), view) for i, view in enumerate(views)]


def test_a_moving_thing_keeps_its_id(propagator):
    scenes = walk(propagator, *[seen((2, 10 + 2 * i, 10, 40 + 2 * i, 60)) for i in range(20)])
    assert {s.tracks[0].track_id for s in scenes} == {1}


def test_a_track_is_tentative_then_confirmed(propagator):
    scenes = walk(propagator, *[seen((2, 10, 10, 40, 60))] * 4)
    assert [s.tracks[0].state for s in scenes] == [TrackState.TENTATIVE] * 2 + [TrackState.CONFIRMED] * 2


def test_a_confirmed_track_that_is_missed_is_lost_and_found_again(propagator):
    view = seen((2, 10, 10, 40, 60))
    scenes = walk(propagator, view, view, view, seen(), seen(), view)
    assert scenes[3].tracks[0].state is TrackState.LOST
    assert (scenes[5].tracks[0].track_id, scenes[5].tracks[0].state) == (1, TrackState.CONFIRMED)


def test_a_lost_track_ends_by_time_not_by_frames(propagator):
    view = seen((2, 10, 10, 40, 60))
    walk(propagator, view, view, view)
    scene = propagator.step(frame(3, stamp_ns=2 * PERIOD_NS + 400_000_000), seen())
    assert [(e.state, e.reason) for e in scene.events] == [(TrackState.ENDED, "not seen for 0.40 s")]
    assert scene.tracks == ()


def test_an_ended_id_is_never_used_again(propagator):
    view = seen((2, 10, 10, 40, 60))
    scenes = walk(propagator, view, *[seen()] * 20, view, *[seen()] * 20, view)
    ids = [t.track_id for s in scenes for t in s.tracks]
    assert ids == sorted(set(ids))


def test_a_car_never_takes_a_pedestrians_id(propagator):
    first, second = walk(propagator, seen((2, 10, 10, 40, 60)), seen((3, 10, 10, 40, 60)))
    assert first.tracks[0].track_id != second.tracks[0].track_id


def test_id_map_positions_point_into_the_track_table(propagator):
    scene = walk(propagator, seen((2, 0, 0, 20, 20), (3, 50, 30, 100, 80)))[0]
    for k, track in enumerate(scene.tracks, start=1):
        x0, y0, x1, y1 = track.box_xyxy
        assert (scene.id_map[y0:y1, x0:x1] == k).any()


def test_an_unseen_frame_repeats_the_masks_and_says_so(propagator):
    first, second = walk(propagator, seen((2, 10, 10, 40, 60)), None)
    assert (second.validity, second.frames_since_network) == (Validity.PROPAGATED, 1)
    assert (second.id_map == first.id_map).all()
    assert "1 frames ago" in second.reason


def test_before_the_network_has_looked_nothing_is_claimed(propagator):
    scene = propagator.step(frame(0), None)
    assert scene.validity is Validity.FAILED
    assert (scene.labels == 255).all()


@pytest.mark.parametrize("stamp_ns", [-1_000_000_000, 5_000_000_000])
def test_a_jump_in_time_ends_all_tracks(propagator, stamp_ns):
    view = seen((2, 10, 10, 40, 60))
    walk(propagator, view, view, view)
    scene = propagator.step(frame(3, stamp_ns=stamp_ns), view)
    assert scene.tracks[0].track_id == 2
    assert "time jumped" in scene.events[0].reason


@pytest.mark.parametrize("stamp_ns", [-1_000_000_000, 5_000_000_000])
def test_after_a_jump_in_time_old_masks_are_not_repeated(propagator, stamp_ns):
    walk(propagator, seen((2, 10, 10, 40, 60)), None)
    scene = propagator.step(frame(2, stamp_ns=stamp_ns), None)
    assert (scene.validity, scene.frames_since_network) == (Validity.FAILED, 1)
    assert (scene.labels == VOID).all()
    assert not scene.id_map.any()


CUTS = {
    "the picture jumped": noise(3, seed=2, size=SIZE),
    "frames of 80x45 after 160x90": noise(3, seed=1, size=(45, 80)),
    "time jumped by 9.93 s": Frame(3, 10_000_000_000, "front", noise(3, seed=1, size=SIZE).image),
}


@pytest.mark.parametrize("reason", CUTS)
def test_a_cut_ends_all_tracks_with_its_reason(propagator, reason):
    view = seen((2, 10, 10, 40, 60), (3, 80, 16, 96, 32))
    for i in range(3):
        propagator.step(noise(i, seed=1, size=SIZE), view)
    scene = propagator.step(CUTS[reason], view)
    assert [(e.track_id, e.reason) for e in scene.events if e.state is TrackState.ENDED] == [(1, reason), (2, reason)]
    assert [t.track_id for t in scene.tracks] == [3, 4]


def test_a_frozen_camera_is_said_and_costs_no_id(propagator):
    view = seen((2, 10, 10, 40, 60))
    walk(propagator, view, view, view)
    still = frame(50).image
    frozen = [propagator.step(Frame(i, i * PERIOD_NS, "front", still), view) for i in range(3, 15)]
    assert [s.validity for s in frozen[:10]] == [Validity.OBSERVED] * 10
    assert (frozen[10].validity, frozen[10].reason) == (
        Validity.DEGRADED, "the camera has given the same picture for 0.3 s"
    )  # fmt: skip
    assert {t.track_id for s in frozen for t in s.tracks} == {1}
    assert walk(propagator, view, start=15)[0].validity is Validity.OBSERVED


def test_reset_forgets_tracks_but_not_ids(propagator):
    view = seen((2, 10, 10, 40, 60))
    walk(propagator, view)
    propagator.reset()
    assert walk(propagator, view, start=1)[0].tracks[0].track_id == 2


def test_one_view_with_two_hundred_things(propagator):
    boxes = [(2, 8 * (i % 20), 9 * (i // 20), 8 * (i % 20) + 5, 9 * (i // 20) + 6) for i in range(200)]
    scenes = walk(propagator, seen(*boxes), seen(*boxes))
    assert [t.track_id for t in scenes[1].tracks] == [t.track_id for t in scenes[0].tracks]


def test_matching_takes_the_best_total_and_nothing_below_the_least():
    similarity = np.array([[0.6, 0.5], [0.55, 0.1]])
    assert match(similarity, 0.3) == [(0, 1), (1, 0)]
    assert match(similarity, 0.58) == [(0, 0)]


def test_a_poor_pair_never_displaces_a_good_one():
    assert match(np.array([[0.9, 0.29], [0.29, 0.0]]), 0.3) == [(0, 0)]


boxes = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(boxes, boxes, st.integers(0, 2**32 - 1))
def test_iou_of_crops_is_iou_of_full_masks(a, b, seed):
    rng = np.random.default_rng(seed)
    masks, full, xyxy = [], [], []
    for x, y, w, h in (a, b):
        mask = rng.random((h, w)) < 0.7
        image = np.zeros((40, 40), bool)
        image[y : y + h, x : x + w] = mask
        masks.append(mask)
        full.append(image)
        xyxy.append((x, y, x + w, y + h))
    union = (full[0] | full[1]).sum()
    expected = (full[0] & full[1]).sum() / union if union else 0.0
    assert mask_iou(xyxy[0], masks[0], xyxy[1], masks[1]) == pytest.approx(expected)

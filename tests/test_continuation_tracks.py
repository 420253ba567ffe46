"""Ids across restarts: what a propagator remembers of its tracks, and how a fresh one knows them again."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from perception.continuity import decode, encode
from perception.propagation.continuation import checked, remember, restore
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.types import VOID, Prompt, Scene, TrackState
from tests.continuation_fakes import CAR, CONE, HEIGHT, WALKER, WIDTH, Camera, Thing, checkpoint, fused
from tests.fakes import PERIOD_NS


def moved(thing: Thing, dx: int) -> Thing:
    class_id, x0, y0, x1, y1 = thing
    return class_id, x0 + dx, y0, x1 + dx, y1


def restarted(camera: Camera, gap_s: float) -> Camera:
    """A fresh process's camera after a gap, by way of the file's bytes."""
    state = remember(camera.propagator, camera.stamp_ns)
    through = decode(encode(checkpoint(state))).identities
    assert through == state
    after = Camera(fused(), camera.stamp_ns + round(gap_s * 1e9))
    restore(after.propagator, through, after.stamp_ns)
    return after


def ids(scene: Scene) -> dict[int, int]:
    """Class -> track of what is visible."""
    return {t.class_id: t.track_id for t in scene.tracks if t.state is TrackState.CONFIRMED}


def test_things_keep_their_ids_across_a_restart():
    camera = Camera(fused())
    before = ids(camera.show({"car": CAR, "walker": WALKER}, times=5))
    assert len(before) == 2
    after = restarted(camera, 1.3)
    scene = after.show({"car": moved(CAR, 6), "walker": moved(WALKER, -4)})
    assert ids(scene) == before
    reasons = [e.reason for e in scene.events]
    assert reasons.count("continued after a restart") == 2
    assert reasons.count("found again") == 2


def test_a_thing_that_moves_is_found_where_its_motion_leads():
    camera = Camera(fused())
    for k in range(9):
        camera.show({"car": moved(CAR, 2 * k)})
    before = ids(camera.show({"car": moved(CAR, 18)}))
    after = restarted(camera, 0.5)
    assert ids(after.show({"car": moved(CAR, 48)})) == before


def test_what_a_person_called_it_goes_on():
    camera = Camera(fused())
    camera.show({"car": CAR}, times=5)
    camera.propagator.relabel(1, 3)
    camera.show({"car": CAR})
    scene = restarted(camera, 0.8).show({"car": CAR}, times=3)
    assert [(t.track_id, t.class_id) for t in scene.tracks] == [(1, 3)]


def test_two_alike_are_told_apart_by_where_they_are():
    left, right = (3, 20, 30, 36, 78), (3, 100, 30, 116, 78)
    camera = Camera(fused())
    things = {"walker": left, "cone": right}
    scene = camera.show(things, times=5)
    before = {t.box_xyxy: t.track_id for t in scene.tracks}
    scene = restarted(camera, 1.0).show(things)
    assert {t.box_xyxy: t.track_id for t in scene.tracks} == before


def test_what_is_gone_after_a_restart_ends_and_its_id_stays_its_own():
    camera = Camera(fused())
    old = ids(camera.show({"car": CAR, "walker": WALKER}, times=5))
    after = restarted(camera, 1.0)
    after.show({"car": CAR})
    after.stamp_ns += 600_000_000
    scene = after.show({"car": CAR}, times=60)  # 2.6 s in all, which is longer than a thing may be out of sight
    assert ids(scene) == {2: old[2]}
    assert old[3] not in {t.track_id for t in scene.tracks}
    assert ids(after.show({"car": CAR, "walker": WALKER}, times=5))[3] > max(old.values())


def test_what_was_too_fast_to_be_known_again_ends_with_a_reason():
    camera = Camera(fused())
    for k in range(10):
        camera.show({"car": moved(CAR, 8 * k)})
    events = restarted(camera, 2.0).show({"car": CAR}).events
    assert [e.reason for e in events][:1] == ["too fast to be known again after a restart"]


@pytest.mark.parametrize(("gap_s", "camera_s"), [(3.0, 0.0), (9.0, 0.0), (6.0, 3.0)])
def test_the_time_without_a_node_or_a_frame_is_no_hiding(gap_s, camera_s):
    camera = Camera(fused())
    things = {"car": CAR, "walker": WALKER}
    before = ids(camera.show(things, times=5))
    after = restarted(camera, gap_s - camera_s)
    after.stamp_ns += round(camera_s * 1e9)
    after.show({"car": CAR})
    after.stamp_ns += 1_900_000_000
    scene = after.show({"car": CAR})  # the walker is behind something, for less than it may
    assert ids(scene) == {2: before[2]}
    assert ids(after.show(things)) == before


def hidden_for_1_5_s(camera: Camera) -> Camera:
    """The walker, while the car stays in sight."""
    camera.show({"car": CAR})
    camera.stamp_ns += 1_500_000_000 - PERIOD_NS
    camera.show({"car": CAR})
    return camera


def test_what_was_hidden_before_a_restart_may_stay_so_for_the_rest_of_its_time():
    camera = Camera(fused())
    camera.show({"car": CAR, "walker": WALKER}, times=5)
    after = restarted(restarted(hidden_for_1_5_s(camera), 3.0), 3.0)
    assert len(after.show({"car": CAR}, times=20).tracks) == 2
    reasons = [event.reason for _ in range(20) for event in after.show({"car": CAR}).events]
    assert reasons == ["not seen for 2.53 s"]


def test_what_was_out_of_sight_for_too_long_before_a_restart_ends_with_a_reason():
    camera = Camera(fused())
    camera.show({"car": CAR, "walker": WALKER}, times=5)
    hidden_for_1_5_s(camera)
    state = remember(camera.propagator, camera.stamp_ns)
    other = fused()
    other.life.lost_for_ns = 10**9  # the launch file says so now
    restore(other, state, camera.stamp_ns + 10**9)
    ended = [e.reason for e in other.life.take_events() if e.state is TrackState.ENDED]
    assert ended == ["not seen for 1.50 s before a restart"]


@pytest.mark.parametrize("class_id", [VOID, 2])
@pytest.mark.parametrize("gap_s", [3.0, 9.0])
def test_a_prompted_thing_goes_on_after_a_long_gap(gap_s, class_id):
    camera = Camera(fused())
    camera.show({"cone": CONE}, times=5)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[CONE[2] : CONE[4], CONE[1] : CONE[3]] = True
    track_id = camera.propagator.prompt(Prompt(mask=mask, class_id=class_id))
    camera.show({"cone": CONE}, times=3)
    scene = restarted(camera, gap_s).show({"cone": moved(CONE, 8)}, times=3)
    assert [(t.track_id, t.state) for t in scene.tracks] == [(track_id, TrackState.CONFIRMED)]


@pytest.mark.parametrize("dx", [0, 8])
def test_a_prompted_thing_of_no_class_goes_on(dx):
    camera = Camera(fused())
    camera.show({"car": CAR, "cone": CONE}, times=5)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[CONE[2] : CONE[4], CONE[1] : CONE[3]] = True
    track_id = camera.propagator.prompt(Prompt(mask=mask))
    camera.show({"car": CAR, "cone": CONE}, times=3)
    after = restarted(camera, 0.8)
    things = {"car": CAR, "cone": moved(CONE, dx)}
    scene = after.show(things)
    for _ in range(5):
        found = next(t for t in scene.tracks if t.track_id == track_id)
        assert (found.state, found.prompted, found.class_id) == (TrackState.CONFIRMED, True, VOID)
        assert np.allclose(found.box_xyxy, moved(CONE, dx)[1:], atol=8)
        scene = after.show(things)


def test_a_prompted_thing_that_is_not_there_any_more_ends():
    camera = Camera(fused())
    camera.show({"cone": CONE}, times=3)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[CONE[2] : CONE[4], CONE[1] : CONE[3]] = True
    track_id = camera.propagator.prompt(Prompt(mask=mask))
    camera.show({"cone": CONE}, times=3)
    scene = restarted(camera, 0.8).show({"car": CAR})
    assert track_id not in {t.track_id for t in scene.tracks}
    assert (track_id, "not found after a restart") in {(e.track_id, e.reason) for e in scene.events}


def test_the_iou_propagator_goes_on_with_new_ids_only():
    camera = Camera(IouPropagator((WIDTH, HEIGHT), LifeCycle()))
    before = ids(camera.show({"car": CAR}, times=5))
    after = Camera(IouPropagator((WIDTH, HEIGHT), LifeCycle()), camera.stamp_ns + 10**9)
    assert restore(after.propagator, remember(camera.propagator, camera.stamp_ns), after.stamp_ns) == 0
    scene = after.show({"car": CAR}, times=5)
    assert min(ids(scene).values()) > max(before.values())


def test_a_tentative_track_is_not_continued():
    camera = Camera(fused())
    camera.show({"car": CAR})
    scene = restarted(camera, 0.5).show({"car": CAR})
    assert [e.reason for e in scene.events if e.state is TrackState.ENDED] == ["not confirmed before a restart"]
    assert [t.track_id for t in scene.tracks] == [2]


def test_a_frame_captured_before_the_restart_was_over_leaves_what_can_be_read():
    camera = Camera(fused())
    before = ids(camera.show({"car": CAR, "walker": WALKER}, times=5))
    after = restarted(camera, 1.0)
    after.stamp_ns -= 2 * PERIOD_NS  # the newest frame of a camera that was open while the network loaded
    assert ids(after.show({"car": CAR, "walker": WALKER})) == before
    assert {m.track_id for m in checked(remember(after.propagator, after.stamp_ns)).tracks} == set(before.values())


def test_what_is_remembered_of_256_tracks_is_small():
    camera = Camera(fused())
    camera.show({"car": CAR, "walker": WALKER}, times=5)
    one = remember(camera.propagator, camera.stamp_ns)
    tracks = tuple(
        msgspec.structs.replace(one.tracks[0], track_id=k + 1, pointer=bytes(np.random.default_rng(k).bytes(192)))
        for k in range(256)
    )
    state = msgspec.structs.replace(one, tracks=tracks, next_id=257)
    assert len(encode(checkpoint(state))) < 90_000

"""What people say to the fused propagator: prompts, removals, other labels, resets."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from perception.errors import PromptError
from perception.propagation.rules import FusionRules
from perception.types import VOID, Prompt, TrackState
from tests.fakes import MASKS, FakeCarrier, features, view
from tests.walk import CAR, Walk, prompt_of, said


def test_a_prompted_thing_of_no_class_is_followed_without_the_network():
    walk = Walk()
    walk.step(view())
    assert walk.propagator.prompt(prompt_of(32, 16, 64, 48)) == 1
    assert walk.carrier.told == [("forget", 0), ("pin", 0)]
    scenes = walk.steps(*[view()] * 60)
    assert said(scenes[0]) == [(1, TrackState.TENTATIVE), (1, TrackState.CONFIRMED)]
    track = scenes[-1].tracks[0]
    assert (track.prompted, track.class_id, track.state) == (True, VOID, TrackState.CONFIRMED)
    assert track.box_xyxy == (32, 16, 64, 48)
    assert [len(s.events) for s in scenes[1:]] == [0] * 59


def test_a_speck_does_not_become_what_was_prompted():
    walk = Walk()
    walk.step(view())
    walk.propagator.prompt(prompt_of(32, 16, 64, 48))
    walk.step(view())
    scene = walk.step(view((2, 34, 20, 40, 26)))
    assert (scene.tracks[0].track_id, scene.tracks[0].box_xyxy) == (1, (32, 16, 64, 48))


def test_a_hidden_thing_of_no_class_keeps_its_slot_as_nothing_else_can_find_it_again():
    carrier = FakeCarrier(slots=8)
    carrier.cheap_slots = 2
    walk = Walk(carrier)
    walk.step(view())
    walk.propagator.prompt(prompt_of(0, 0, 16, 16))
    walk.step(view())
    carrier.presence[0] = 0
    others = view((2, 40, 0, 60, 20), (3, 80, 0, 100, 20))
    walk.steps(view(), others, others, others)
    carrier.presence[:] = 1
    scene = walk.step(others)
    assert next(t.state for t in scene.tracks if t.track_id == 1) is TrackState.CONFIRMED


class Far:
    """An array on an accelerator: what it shows can be had until the next frame only."""

    def __init__(self, plane: NDArray) -> None:
        self.shape, self.plane = plane.shape, plane

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        return self.plane.astype(dtype or self.plane.dtype)


@pytest.mark.parametrize("is_far", [False, True])
def test_how_a_prompted_thing_looks_is_known_by_the_next_frame(is_far):
    walk, there = Walk(), features((3, 32, 16, 64, 48))
    given = replace(there, fine8=Far(there.fine8), fine4=Far(there.fine4)) if is_far else there  # type: ignore[arg-type]
    walk.step(view(), given)
    walk.propagator.prompt(prompt_of(32, 16, 64, 48))
    (track,) = walk.propagator.life.tracks
    assert track.carriage is not None
    assert track.carriage.pointer.any() == (not is_far)
    walk.step(view(), given)
    assert track.carriage.pointer.argmax() == 3


def test_a_prompt_on_a_visible_track_is_that_track():
    walk = Walk()
    walk.confirmed(CAR)
    assert walk.propagator.prompt(prompt_of(32, 16, 64, 48)) == 1
    scene = walk.steps(*[view()] * 30)[-1]
    assert (scene.tracks[0].prompted, scene.tracks[0].state) == (True, TrackState.CONFIRMED)


def test_a_prompted_tentative_track_is_confirmed_by_the_prompt():
    walk = Walk()
    walk.step(view(CAR))
    assert walk.propagator.prompt(prompt_of(32, 16, 64, 48)) == 1
    scene = walk.steps(*[view()] * 3)[-1]
    assert [(t.track_id, t.state) for t in scene.tracks] == [(1, TrackState.CONFIRMED)]


def test_the_class_of_a_prompt_is_not_outvoted():
    walk = Walk()
    walk.step(view())
    walk.propagator.prompt(prompt_of(32, 16, 64, 48, class_id=3))
    assert {s.tracks[0].class_id for s in walk.steps(*[view(CAR)] * 5)} == {3}


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt(points=((500.0, 10.0),)),
        Prompt(box_xyxy=(200.0, 10.0, 220.0, 30.0)),
        Prompt(mask=np.zeros(MASKS[::-1], bool)),
    ],
    ids=["nothing", "outside", "box outside", "empty"],
)
def test_a_prompt_that_means_nothing_is_refused_and_changes_nothing(prompt: Prompt):
    walk = Walk()
    walk.confirmed(CAR)
    with pytest.raises(PromptError):
        walk.propagator.prompt(prompt)
    scene = walk.step(view(CAR))
    assert (said(scene), [t.track_id for t in scene.tracks]) == ([], [1])


def test_prompts_before_the_first_frame_and_on_dead_tracks_are_refused():
    walk = Walk()
    with pytest.raises(PromptError, match="no frame"):
        walk.propagator.prompt(prompt_of(32, 16, 64, 48))
    walk.confirmed(CAR)
    walk.propagator.remove(1)
    for act in (lambda: walk.propagator.remove(1), lambda: walk.propagator.relabel(1, 3)):
        with pytest.raises(PromptError, match="track 1 does not live"):
            act()


def test_a_prompt_with_every_slot_visible_is_refused_with_a_way_out():
    walk = Walk(FakeCarrier(slots=1))
    walk.confirmed(CAR)
    with pytest.raises(PromptError, match="remove a track first"):
        walk.propagator.prompt(prompt_of(80, 16, 96, 32))


def test_prompts_without_end_are_bounded():
    walk = Walk(FakeCarrier(slots=2), rules=FusionRules(most_tracks=10))
    walk.carrier.presence[:] = 0  # each thing is hidden at once, and its slot goes to the next
    walk.step(view())
    for i in range(20):
        x = 16 * (i % 7)
        with contextlib.suppress(PromptError):
            walk.propagator.prompt(prompt_of(x, 16, x + 16, 32))
        walk.step(view())
    assert len(walk.propagator.life.tracks) <= 10


def test_removing_ends_a_track_at_once():
    walk = Walk()
    walk.confirmed(CAR)
    walk.propagator.remove(1)
    scene = walk.step()
    assert [(e.track_id, e.state, e.reason) for e in scene.events] == [(1, TrackState.ENDED, "removed on request")]
    assert scene.tracks == ()
    assert walk.step(view(CAR)).tracks[0].track_id == 2


def test_another_label_stays():
    walk = Walk()
    walk.confirmed(CAR)
    walk.propagator.relabel(1, 3)
    scenes = walk.steps(*[view(CAR), None, view()] * 4, view(CAR))
    assert {(t.track_id, t.class_id) for s in scenes for t in s.tracks} == {(1, 3)}


def test_a_track_with_another_label_is_still_met_where_nothing_is_carried():
    walk = Walk()
    speck = (2, 20, 20, 23, 23)
    walk.confirmed(speck)
    walk.propagator.relabel(1, 3)
    assert {(t.track_id, t.class_id) for s in walk.steps(*[view(speck)] * 3) for t in s.tracks} == {(1, 3)}


def test_the_class_map_shows_a_seen_track_as_its_own_class():
    walk = Walk()
    walk.confirmed(CAR)
    walk.propagator.relabel(1, 3)
    for scene in walk.steps(view(CAR), None):
        assert (scene.labels[scene.id_map == 1] == 3).all()


def test_a_reset_ends_all_and_reuses_no_id():
    walk = Walk()
    walk.confirmed(CAR)
    walk.propagator.reset()
    with pytest.raises(PromptError, match="no frame"):
        walk.propagator.prompt(prompt_of(32, 16, 64, 48))
    scene = walk.step(view(CAR))
    assert said(scene) == [(1, TrackState.ENDED), (2, TrackState.TENTATIVE)]
    assert scene.events[0].reason == "reset"


def test_a_prompt_on_a_thing_without_a_slot_lets_it_be_carried():
    walk = Walk(FakeCarrier(slots=1))
    boxes = CAR, (2, 80, 16, 96, 32)
    walk.confirmed(*boxes)
    with pytest.raises(PromptError, match="remove a track first"):
        walk.propagator.prompt(prompt_of(80, 16, 96, 32))
    walk.propagator.remove(1)
    assert walk.propagator.prompt(prompt_of(80, 16, 96, 32)) == 2
    assert walk.carrier.told == [("forget", 0), ("pin", 0)]
    scene = walk.steps(*[view()] * 30)[-1]
    assert [(t.track_id, t.state) for t in scene.tracks] == [(2, TrackState.CONFIRMED)]
    assert scene.id_map.any()


def test_a_refused_prompt_uses_up_no_id():
    walk = Walk(FakeCarrier(slots=1))
    walk.confirmed(CAR)
    with pytest.raises(PromptError):
        walk.propagator.prompt(prompt_of(80, 16, 96, 32))
    assert walk.propagator.life.next_id == 2
    assert walk.step(view(CAR)).events == ()


def crowded() -> Walk:
    """Two slots, both of prompted things of no class that are hidden, the second for longer."""
    walk = Walk(FakeCarrier(slots=2))
    walk.step(view())
    for x in (0, 64):
        walk.propagator.prompt(prompt_of(x, 16, x + 32, 48))
    for slot in (1, 0):
        walk.step(view())
        walk.carrier.presence[slot] = 0
    assert [t.state for t in walk.step(view()).tracks] == [TrackState.OCCLUDED] * 2
    walk.carrier.presence[:] = 1
    return walk


def test_the_unknown_thing_hidden_longest_gives_its_slot_to_a_new_prompt():
    walk = crowded()
    assert walk.propagator.prompt(prompt_of(32, 0, 64, 16)) == 3
    walk.carrier.presence[0] = 0
    scene = walk.step(view())
    ended = [(e.track_id, e.reason) for e in scene.events if e.state is TrackState.ENDED]
    assert ended == [(2, "hidden, and its slot went to a newer prompt")]
    assert {t.track_id: t.state for t in scene.tracks} == {1: TrackState.OCCLUDED, 3: TrackState.CONFIRMED}


def test_a_prompt_that_is_refused_ends_nothing():
    walk = crowded()
    with pytest.raises(PromptError):
        walk.propagator.prompt(Prompt(points=((500.0, 500.0),)))
    assert [t.track_id for t in walk.step(view()).tracks] == [1, 2]


def test_where_all_slots_follow_visible_things_a_prompt_is_refused():
    walk = crowded()
    assert [t.state for t in walk.step(view()).tracks] == [TrackState.CONFIRMED] * 2
    with pytest.raises(PromptError, match="all 2 slots follow visible things; remove a track first"):
        walk.propagator.prompt(prompt_of(32, 0, 64, 16))


def test_a_prompted_thing_that_is_hidden_from_the_start_has_no_mask_to_be_sure_of():
    walk = Walk()
    walk.step(view())
    walk.propagator.prompt(prompt_of(32, 16, 64, 48))
    walk.carrier.presence[0] = 0
    (track,) = walk.step(view()).tracks
    assert (track.state, track.quality) == (TrackState.OCCLUDED, 0.0)


WALL, WALKER = (16, 0, 112, 64), (3, 40, 20, 52, 50)  # a box of no class, and a person before it


def test_a_person_before_a_prompted_wall_is_a_person():
    walk = Walk()
    walk.step(view())
    walk.propagator.prompt(prompt_of(*WALL))
    for score in (0.5, 0.9, 0.9):
        scene = walk.step(view(WALKER, score=score))
        assert {t.track_id: t.class_id for t in scene.tracks} == {1: VOID, 2: 3}
        assert scene.tracks[scene.id_map[30, 45] - 1].track_id == 2
        assert scene.labels[30, 45] == 3
    for _ in range(3):  # not in the memory of the wall either
        scene = walk.step()
        assert scene.tracks[scene.id_map[30, 45] - 1].track_id == 2
        assert scene.tracks[scene.id_map[30, 90] - 1].track_id == 1


@pytest.mark.parametrize("decided", [VOID, 3])
def test_a_fair_share_of_a_prompted_thing_is_a_part_of_it(decided: int):
    walk = Walk()
    walk.step(view())
    track_id = walk.propagator.prompt(prompt_of(32, 16, 64, 48))
    part = (3, 32, 16, 40, 48)  # a quarter
    if decided != VOID:
        walk.propagator.relabel(track_id, decided)
        part = (3, 32, 16, 40, 32)  # an eighth
    scenes = walk.steps(*[view(part)] * 4)
    assert [[t.track_id for t in s.tracks] for s in scenes] == [[1]] * 4
    assert scenes[-1].tracks[0].box_xyxy == (32, 16, 64, 48)

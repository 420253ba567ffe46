"""What holds of the fused propagator whatever happens, and for how long."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perception.errors import PromptError
from perception.types import VOID, Features, Panoptic, Scene, Track, TrackEvent, TrackState
from tests.fakes import PERIOD_NS, FakeCarrier, features, picture, view
from tests.walk import FEATURES, SECOND_NS, Walk, noise, prompt_of

SHOWN = (TrackState.TENTATIVE, TrackState.CONFIRMED)


def check_scene(scene: Scene) -> None:
    """What must hold of every scene by itself."""
    visible = int(scene.id_map.max(initial=0))
    assert visible <= len(scene.tracks)
    assert len({t.track_id for t in scene.tracks}) == len(scene.tracks) <= 256
    for place, track in enumerate(scene.tracks, start=1):
        assert 0 <= track.quality <= 1
        assert 0 <= track.score <= 1
        assert track.first_ns <= track.last_ns <= scene.stamp_ns or track.prompted
        assert not track.observed or track.last_ns == scene.stamp_ns
        if place <= visible:
            assert track.state in SHOWN
            rows, columns = np.nonzero(scene.id_map == place)
            assert len(rows), "a visible track without a pixel"
            assert track.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


class Register:
    """What the events so far say of each track; they must tell the same as the tracks of each scene."""

    def __init__(self) -> None:
        self.states: dict[int, TrackState] = {}
        self.newest = 0

    def note(self, scene: Scene) -> None:
        for event in scene.events:
            self._note(event)
        alive = {i: s for i, s in self.states.items() if s is not TrackState.ENDED}
        assert alive == {t.track_id: t.state for t in scene.tracks}

    def _note(self, event: TrackEvent) -> None:
        assert event.reason
        before = self.states.get(event.track_id)
        if before is None:
            assert event.track_id > self.newest, "an id was reused"
            assert event.state is TrackState.TENTATIVE
            self.newest = event.track_id
        else:
            assert before is not TrackState.ENDED
            assert before is not event.state, f"{event.state} said twice"
        self.states[event.track_id] = event.state


things = st.tuples(
    st.sampled_from((2, 3)), st.integers(0, 118), st.integers(0, 54), st.integers(2, 48), st.integers(2, 32)
).map(lambda t: (t[0], t[1], t[2], min(128, t[1] + t[3]), min(64, t[2] + t[4])))


class Drive(RuleBasedStateMachine):
    """Anything may happen; the promises hold."""

    def __init__(self) -> None:
        super().__init__()
        self.walk = Walk(FakeCarrier(slots=4))
        self.register, self.stamp_ns, self.scene, self.scenery = Register(), 0, None, 1
        self.owners: list = [None] * 4

    def _step(self, seen: Panoptic | None, given: Features = FEATURES) -> None:
        self.walk.i += 1
        frame = replace(noise(self.walk.i, self.scenery), stamp_ns=self.stamp_ns)
        self.scene = self.walk.step(seen, given, frame)
        check_scene(self.scene)
        self.register.note(self.scene)
        self._check_slots()

    @rule(boxes=st.lists(things, max_size=7), score=st.sampled_from((0.1, 0.4, 0.9)), after=st.integers(0, 300))
    def look(self, boxes, score, after):
        self.stamp_ns += after * 1_000_000
        spots = features(*((1 + i % 3, *box[1:]) for i, box in enumerate(boxes)))
        self._step(view(*boxes, score=score), spots)

    @rule(times=st.integers(1, 4))
    def look_again(self, times):
        """The same things for some frames, so that tracks are confirmed."""
        boxes = [(t.class_id, *t.box_xyxy) for t in self.scene.tracks[:5] if t.class_id != VOID] if self.scene else []
        for _ in range(times):
            self.stamp_ns += PERIOD_NS
            self._step(view(*boxes))

    @rule(times=st.integers(1, 15), after=st.integers(1, 200))
    def skip(self, times, after):
        for _ in range(times):
            self.stamp_ns += after * 1_000_000
            self._step(None)

    @rule(times=st.integers(1, 15), after=st.integers(1, 200))
    def see_nothing(self, times, after):
        for _ in range(times):
            self.stamp_ns += after * 1_000_000
            self._step(view())

    @rule(x=st.integers(-3, 3), y=st.integers(-2, 2))
    def carry_elsewhere(self, x, y):
        self.walk.carrier.move_cells = (x, y)

    @rule(slot=st.integers(0, 3), presence=st.sampled_from((0.0, 0.3, 0.7, 1.0)))
    def hide_or_show(self, slot, presence):
        self.walk.carrier.presence[slot] = presence

    @rule(cut=st.sampled_from(("picture", "back", "gap")))
    def cut(self, cut):
        if cut == "picture":
            self.scenery += 1
        self.stamp_ns += {"picture": PERIOD_NS, "back": -PERIOD_NS, "gap": 3 * SECOND_NS}[cut]
        self._step(None)

    @rule()
    def reset(self):
        self.walk.propagator.reset()
        self.owners = [None] * 4

    @rule(box=things, class_id=st.sampled_from((2, VOID)))
    def prompt(self, box, class_id):
        try:
            self.walk.propagator.prompt(prompt_of(*box[1:], class_id=class_id))
        except PromptError:
            return
        self._check_slots()

    @precondition(lambda self: self.scene and self.scene.tracks)
    @rule(data=st.data(), removes=st.booleans())
    def remove_or_relabel(self, data, removes):
        assert self.scene
        track: Track = data.draw(st.sampled_from(self.scene.tracks))
        try:
            if removes:
                self.walk.propagator.remove(track.track_id)
            else:
                self.walk.propagator.relabel(track.track_id, 3)
        except PromptError:
            assert track.track_id not in {t.track_id for t in self.walk.propagator.life.tracks}

    def _check_slots(self) -> None:
        """No slot changes hands unwiped."""
        owners = list(self.walk.propagator.slots.owners)
        for slot, (before, now) in enumerate(zip(self.owners, owners, strict=True)):
            if now is not None and now is not before:
                assert ("forget", slot) in self.walk.carrier.told
        self.owners = owners

    @invariant()
    def what_is_kept_is_no_more_than_all(self):
        for kept in self.walk.carrier.kept:
            assert kept.masks.min() >= 0
            assert kept.masks.sum(0).max() <= 1 + 1e-5
            assert not kept.masks[~kept.active].any()

    @invariant()
    def live_tracks_hold_the_slots(self):
        alive = self.walk.propagator.life.tracks
        for slot, owner in enumerate(self.walk.propagator.slots.owners):
            if owner is not None:
                assert owner in alive
                assert owner.carriage is not None
                assert owner.carriage.slot == slot


TestDrive = Drive.TestCase
TestDrive.settings = settings(max_examples=15, stateful_step_count=25, deadline=None, print_blob=True)


def script(seed: int, frames: int = 60) -> list[Scene]:
    rng = np.random.default_rng(seed)
    walk, scenes = Walk(FakeCarrier(slots=4)), []
    for i in range(frames):
        corners = rng.integers(0, (90, 40), (6, 2))
        boxes = [(int(2 + k % 2), int(x), int(y), int(x) + 24, int(y) + 20) for k, (x, y) in enumerate(corners)]
        walk.carrier.move_cells = (int(rng.integers(-2, 3)), 0)
        walk.carrier.presence = rng.random(4).astype(np.float32)
        scenes.append(walk.step(None if i % 3 == 2 else view(*boxes), features((i % 3, *boxes[0][1:]))))
    return scenes


def test_two_runs_are_equal_bit_for_bit():
    for a, b in zip(script(5), script(5), strict=True):
        assert a.id_map.tobytes() == b.id_map.tobytes()
        assert a.labels.tobytes() == b.labels.tobytes()
        assert [repr(t) for t in a.tracks] == [repr(t) for t in b.tracks]
        assert [repr(e) for e in a.events] == [repr(e) for e in b.events]
        assert (a.validity, a.reason, a.frames_since_network) == (b.validity, b.reason, b.frames_since_network)


# Bounds


CYCLE = 48


def passers_by() -> list[tuple[Panoptic | None, Features]]:
    """Frames that can be repeated: every fourth brings a thing where there was none for long, for eight frames.

    The network looks at every second one.
    """
    frames: list[tuple[Panoptic | None, Features]] = []
    for i in range(CYCLE):
        boxes = []
        for k in (i // 4 - 1, i // 4):
            x, y = 32 * (k % 4) + 2 * (i - 4 * k), 21 * (k % 3)
            boxes.append((2 + k % 2, x, y, x + 14, y + 16))
        spots = [(1 + (i // 4 - 1 + k) % 7, *box[1:]) for k, box in enumerate(boxes)]
        frames.append((None if i % 2 else view(*boxes), features(*spots)))
    return frames


def test_memory_is_constant_over_an_hour_and_over_500_things():
    walk, frames, cycle = Walk(FakeCarrier(slots=4), lost_for_ns=SECOND_NS), 2100, passers_by()
    held: list[int] = []
    try:
        for i in range(frames):
            if i == 1650:
                tracemalloc.start(1)
            seen, given = cycle[i % CYCLE]
            walk.step(seen, given, picture(i, i * 3600 * SECOND_NS // frames))
            if i % 100 == 99 and i > 1700:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert walk.propagator.life.next_id > 500
    assert len(walk.propagator.life.tracks) < 10
    assert max(held) - min(held) < 32_000, held

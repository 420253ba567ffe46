"""Ids across restarts: what is remembered, the file it lies in, and a node that is killed and goes on."""

from __future__ import annotations

import dataclasses
import os
import random
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from perception import continuity, wire
from perception.build import build_node, check_launch, open_checkpoint, replay_run
from perception.client import Control
from perception.clock import boot_id
from perception.config import Launch, RecordConfig, read_launch
from perception.continuity import (
    RESERVE,
    About,
    Checkpoint,
    CheckpointFile,
    Continuity,
    Numbers,
    decode,
    encode,
    place,
    usable,
)
from perception.health import NEW_RUN_BEATS
from perception.models.grouping import group_things
from perception.propagation.affinity import AffinityCarrier
from perception.propagation.continuation import VERSION, State, TrackMemory, checked, remember, restore
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.protocols import SourceInfo
from perception.sinks.messages import SceneEncoder
from perception.types import VOID, Features, Frame, Panoptic, Prompt, Scene, TrackState
from tests.fakes import PERIOD_NS
from tests.published import identity, topics
from tests.recorded_run import live_launch, people_camera
from tests.test_node import healths, running, until
from tests.test_panoptic import CARD, FEATURES, tiny_panoptic

WIDTH, HEIGHT = 160, 96
BOOT = "0b6f2c1e-0000-4000-8000-000000000000"
RUN = "1b6f2c1e-0000-4000-8000-000000000000"
ABOUT = About(BOOT, "front", "source", "model", "", "affinity")
CAR, WALKER, CONE = (2, 10, 20, 42, 44), (3, 100, 30, 116, 78), (None, 60, 60, 84, 84)
Thing = tuple[int | None, int, int, int, int]  # class or None for one that the network does not know; box


def moved(thing: Thing, dx: int) -> Thing:
    class_id, x0, y0, x1, y1 = thing
    return class_id, x0 + dx, y0, x1 + dx, y1


def looks(things: Mapping[str, Thing]) -> Features:
    """Each thing has its own look, by its name; the rest another."""
    rng = np.random.default_rng(0)
    vectors: dict[str, np.ndarray] = dict(zip(("", "car", "walker", "cone"), rng.normal(0, 1, (4, 32)), strict=True))

    def at(step: int) -> np.ndarray:
        out = np.empty((HEIGHT // step, WIDTH // step, 32), np.float32)
        out[:] = vectors[""]
        for name, (_, x0, y0, x1, y1) in things.items():
            out[y0 // step : -(-y1 // step), x0 // step : -(-x1 // step)] = vectors[name]
        return np.ascontiguousarray(out.transpose(2, 0, 1))

    return Features(at(16), at(16), at(8), at(4))


def seen(things: Mapping[str, Thing]) -> Panoptic:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for class_id, x0, y0, x1, y1 in things.values():
        if class_id is not None:
            labels[y0:y1, x0:x1] = class_id
    return group_things(labels, [2, 3], [0] * 4)


class Camera:
    """Frames of a scene, through a propagator."""

    def __init__(self, propagator: FusedPropagator | IouPropagator, stamp_ns: int = 10**12) -> None:
        self.propagator, self.stamp_ns, self.seq = propagator, stamp_ns, 0

    def show(self, things: Mapping[str, Thing], times: int = 1) -> Scene:
        for _ in range(times - 1):
            self.show(things)
        self.stamp_ns += PERIOD_NS
        self.seq += 1
        image = np.repeat(np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None].astype(np.uint8) // 2, 3, 2)
        image[0, 0] = self.seq % 256  # a living camera never gives the same picture twice
        frame = Frame(self.seq, self.stamp_ns, "front", image)
        return self.propagator.step(frame, seen(things), looks(things))


def fused() -> FusedPropagator:
    life = LifeCycle(confirm_hits=3, lost_for_ns=2_500_000_000)
    return FusedPropagator((WIDTH, HEIGHT), life, AffinityCarrier(), 4, (2, 3), smooths=False)


def restarted(camera: Camera, gap_s: float) -> Camera:
    """A fresh process's camera after a gap, by way of the file's bytes."""
    state = remember(camera.propagator, camera.stamp_ns)
    through = decode(encode(checkpoint(state))).identities
    assert through == state
    after = Camera(fused(), camera.stamp_ns + round(gap_s * 1e9))
    restore(after.propagator, through, after.stamp_ns)
    return after


def checkpoint(state: State, **more) -> Checkpoint:
    return Checkpoint(
        **{"version": continuity.VERSION, "about": ABOUT, "run": RUN, "starts": 0, "numbers": Numbers(), **more},
        identities=state,
    )


def ids(scene: Scene) -> dict[int, int]:
    """Class -> track of what is visible."""
    return {t.class_id: t.track_id for t in scene.tracks if t.state is TrackState.CONFIRMED}


# What a propagator remembers


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


# What may be in a file

numbers = st.integers(0, 1 << 40)
coordinates = st.floats(-1e6, 1e6)
logs = st.floats(-12, 12)


@st.composite
def memories(draw: st.DrawFn, track_id: int) -> TrackMemory:
    x0, y0 = draw(st.integers(0, 60)), draw(st.integers(0, 40))
    x1, y1 = draw(st.integers(x0 + 1, 64)), draw(st.integers(y0 + 1, 48))
    cells = (-(-y1 // 4) - y0 // 4) * (-(-x1 // 4) - x0 // 4)
    mask = draw(st.sampled_from([b"", b"\xff" * -(-cells // 8)]))
    stamps = [draw(st.integers(0, 10**12)) for _ in range(4)]
    places = (draw(coordinates), draw(coordinates), draw(logs), draw(logs))
    return TrackMemory(
        track_id, draw(st.integers(0, 255)), draw(st.sampled_from([s for s in TrackState if s != "ended"])),
        draw(st.floats(0, 1)), (x0, y0, x1, y1), stamps[0], stamps[1], draw(st.integers(1, 10**6)), draw(st.booleans()),
        stamps[2], stamps[3], places, places, 3, draw(st.dictionaries(st.integers(0, 255), st.integers(1, 10**6))),
        np.ones(16, np.float16).tobytes(), mask,
    )  # fmt: skip


@st.composite
def states(draw: st.DrawFn) -> State:
    track_ids = draw(st.lists(st.integers(1, 10**6), unique=True, max_size=4))
    next_id = max(track_ids, default=0) + draw(st.integers(1, 1000))
    return State(VERSION, 10**12, next_id, (64, 48), tuple(draw(memories(track_id)) for track_id in track_ids))


series = st.builds(Numbers, st.dictionaries(st.sampled_from(["road", "tracks"]), numbers), numbers, numbers)
checkpoints = st.builds(lambda state, given: checkpoint(state, numbers=given), states(), series)


@settings(max_examples=60, deadline=None)
@given(checkpoints)
def test_a_checkpoint_comes_back_as_it_was(given_one):
    assert decode(encode(given_one)) == given_one
    propagator = fused()
    fits = msgspec.structs.replace(given_one.identities, mask_size=(WIDTH, HEIGHT))
    restore(propagator, fits, 10**12)
    assert propagator.life.next_id == fits.next_id
    again = checked(remember(propagator, 10**12))
    assert {m.track_id for m in again.tracks} <= {m.track_id for m in fits.tracks}


@settings(max_examples=150, deadline=None)
@given(checkpoints, st.data())
def test_damage_is_always_noticed(given_one, data):
    good = encode(given_one)
    kind = data.draw(st.sampled_from(["cut", "flip", "more"]))
    if kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    elif kind == "more":
        bad = good + data.draw(st.binary(min_size=1, max_size=8))
    else:
        at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
        bad = good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
    with pytest.raises(ValueError, match=r"checkpoint|damaged"):
        decode(bad)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_with_a_right_checksum_is_refused(content):
    for packed in (content, zlib.compress(content)):
        with pytest.raises(ValueError):  # noqa: PT011 (what is wrong with garbage is nobody's business)
            decode(struct.pack("<4sII", b"PCNT", zlib.crc32(packed), len(packed)) + packed)


def plain(**more) -> TrackMemory:
    values = {"track_id": 7, "class_id": 2, "state": TrackState.CONFIRMED, "score": 0.5, "box": (0, 0, 8, 8)}
    stamps = {"first_ns": 1, "last_ns": 2, "hidden_ns": 2}
    return TrackMemory(**{**values, **stamps, "hits": 3, "prompted": False, **more})


@pytest.mark.parametrize(
    ("memories_", "says"),
    [
        ((plain(), plain()), "ids"),
        ((plain(track_id=8),), "ids"),
        ((plain(box=(0, 0, 800, 8)),), "track 7"),
        ((plain(box=(4, 0, 4, 8)),), "track 7"),
        ((plain(place=(float("nan"), 0.0, 0.0, 0.0)),), "track 7"),
        ((plain(velocity=(0.0, 0.0, 1e300, 0.0)),), "track 7"),
        ((plain(pointer=b"abc"),), "track 7"),
        ((plain(pointer=np.full(4, np.inf, np.float16).tobytes()),), "track 7"),
        ((plain(mask=b"abc"),), "track 7"),
        ((plain(hidden_ns=1 << 60),), "track 7"),
        ((plain(state=TrackState.ENDED),), "track 7"),
        ((plain(), plain(track_id=6, pointer=b"ab")), "pointers"),
    ],
)
def test_a_state_that_contradicts_itself_is_refused(memories_, says):
    with pytest.raises(ValueError, match=says):
        checked(State(VERSION, 10**9, 8, (64, 48), memories_))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2"),
        ({"about": msgspec.structs.replace(ABOUT, boot_id="x")}, "another boot_id"),
        ({"about": msgspec.structs.replace(ABOUT, camera="rear")}, "another camera: rear then, front now"),
        ({"about": msgspec.structs.replace(ABOUT, model="x")}, "another model"),
        ({"about": msgspec.structs.replace(ABOUT, tracking="iou")}, "another tracking"),
        ({"starts": 3}, "3 starts"),
    ],
)
def test_what_is_not_of_this_node_is_not_continued(change, says):
    state = State(VERSION, 10**12, 1, (64, 48), ())
    with pytest.raises(ValueError, match=says):
        usable(encode(checkpoint(state, **change)), ABOUT, 10**12 + 5, 10**9)


@pytest.mark.parametrize("gap_ns", [-1, 10**9 + 1])
def test_a_gap_that_is_too_long_or_negative_is_a_new_run(gap_ns):
    data = encode(checkpoint(State(VERSION, 10**12, 1, (64, 48), ())))
    with pytest.raises(ValueError, match="its last frame is"):
        usable(data, ABOUT, 10**12 + gap_ns, 10**9)


# The file


class Process:
    """What a node's process has, of numbers and ids; `killed` leaves only what is on the disk at that moment."""

    def __init__(self, path: Path, within_s: float = 60.0) -> None:
        self.file = CheckpointFile(path, ABOUT, round(within_s * 1e9))
        self.encoder = SceneEncoder(identity(RUN), topics(), "raw")
        self.camera = Camera(IouPropagator((WIDTH, HEIGHT), LifeCycle()), time.monotonic_ns())
        propagator, self.health = self.camera.propagator, 0
        if found := self.file.found:
            restore(propagator, found.identities, time.monotonic_ns())
            self.encoder.continue_after(found.numbers.seqs, found.numbers.events)
            self.health = found.numbers.health
        self.first_id = propagator.life.next_id
        self.continuity = Continuity(
            self.file,
            RUN,
            lambda stamp_ns: remember(propagator, stamp_ns),
            lambda: propagator.life.next_id,
            lambda: Numbers(self.encoder.seqs, self.encoder.event_count, self.health),
        )

    def frame(self, count: int) -> list[wire.Message]:
        """A frame with so many things that were never seen before, as it is published."""
        self.camera.stamp_ns = time.monotonic_ns() - PERIOD_NS
        at = random.Random(self.camera.seq).sample(range(WIDTH * HEIGHT // 16), count)
        cells = [(3, 4 * (k % (WIDTH // 4)), 4 * (k // (WIDTH // 4))) for k in at]
        scene = self.camera.show({str(i): (c, x, y, x + 2, y + 2) for i, (c, x, y) in enumerate(cells)})
        self.continuity.note(scene)
        self.health += 1
        return [wire.decode(data) for _, data in self.encoder.encode(scene)]

    def killed(self) -> None:
        left = self.file.path.read_bytes() if self.file.path.exists() else None
        self.continuity.close()
        self.file.remove()
        if left is not None:
            self.file.path.write_bytes(left)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "front.run"


def looks_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "looks", lambda _: None)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_id_and_no_seq_is_ever_given_twice_over_twenty_restarts(path, monkeypatch, seed):
    looks_of_nothing(monkeypatch)
    rng = random.Random(seed)
    begun: set[int] = set()
    last: dict[str, int] = {}
    for start in range(20):
        process = Process(path)
        assert (process.file.found is not None) == (start > 0)
        fresh: set[int] = set()
        for _ in range(rng.choice([0, 1, 2, 5, 12]) or start == 0):
            for message in process.frame(rng.choice([0, 3, 60])):
                assert message.seq > last.get(message.topic, 0), message.topic
                last[message.topic] = message.seq
                fresh |= {event.id for event in message.header.events if event.state == "tentative"}
                events = [event.seq for event in message.header.events]
                if message.topic.endswith("tracks") and events:
                    assert events[0] > last.get("event", 0)
                    last["event"] = events[-1]
        assert fresh.isdisjoint(begun)
        begun |= fresh
        if rng.random() < 0.3:
            process.continuity.close()
        else:
            process.killed()
    assert len(begun) > 100


def test_more_ids_than_are_reserved_wait_for_the_disk(path, monkeypatch):
    looks_of_nothing(monkeypatch)
    process = Process(path)
    most = 0
    for _ in range(12):
        most = max(most, *(event.id for m in process.frame(180) for event in m.header.events))
        assert decode(path.read_bytes()).identities.next_id > most
    process.killed()
    with closing(Process(path).continuity):
        assert decode(path.read_bytes()).identities.next_id > most


def tracks_in(path: Path) -> set[int]:
    return {track.track_id for track in decode(path.read_bytes()).identities.tracks} if path.exists() else set()


@pytest.fixture
def followed(path) -> Iterator[tuple[Camera, Continuity]]:
    """A confirmed car that the file has just been told of."""
    camera = Camera(fused())
    propagator, file = camera.propagator, CheckpointFile(path, ABOUT, 10**10)
    kept = Continuity(
        file, RUN, lambda stamp_ns: remember(propagator, stamp_ns), lambda: propagator.life.next_id, Numbers
    )
    with closing(kept):
        for _ in range(3):
            kept.note(camera.show({"car": CAR}))
        until(lambda: tracks_in(path) == {1})
        yield camera, kept


def test_what_has_ended_is_not_continued_after_a_kill(path, followed):
    camera, kept = followed
    camera.propagator.remove(1)
    kept.note(camera.show({}))
    until(lambda: not tracks_in(path), 2.0)


def test_what_was_removed_is_on_the_disk_before_the_next_frame(path, followed):
    camera, kept = followed
    camera.propagator.remove(1)
    kept.save()
    until(lambda: not tracks_in(path), 2.0)


def test_where_the_disk_fails_nothing_is_continued(path, monkeypatch, caplog):
    looks_of_nothing(monkeypatch)
    process = Process(path)
    process.frame(3)
    until(path.exists)

    def full(_: Checkpoint) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process.file, "write", full)
    monkeypatch.setattr(continuity, "EVERY_NS", 0)
    process.camera.seq += 1
    until(lambda: process.frame(3) != [] and not path.exists())
    monkeypatch.undo()
    assert caplog.text.count("No space left on device") == 1
    looks_of_nothing(monkeypatch)
    until(lambda: process.frame(200) != [] and path.exists())
    process.continuity.close()


def test_a_clean_end_leaves_the_exact_numbers(path, monkeypatch):
    looks_of_nothing(monkeypatch)
    process = Process(path)
    for _ in range(3):
        process.frame(4)
    process.continuity.close()
    process.continuity.close()
    found = decode(path.read_bytes())
    assert found.numbers == Numbers({**process.encoder.seqs}, process.encoder.event_count, 3)
    assert found.identities.next_id == process.camera.propagator.life.next_id


def test_a_process_that_ends_before_a_frame_uses_up_nothing(path, monkeypatch):
    looks_of_nothing(monkeypatch)
    process = Process(path)
    process.frame(4)
    process.killed()
    first = []
    for _ in range(continuity.MOST_STARTS):
        process = Process(path)
        first.append(process)
        process.killed()
    assert len({p.first_id for p in first}) == 1
    assert all(p.file.found for p in first)
    last = Process(path)
    assert last.file.found is None
    last.killed()


def test_the_folder_is_private_and_one_process_has_the_file(path, caplog):
    file = CheckpointFile(path, ABOUT, 10**9)
    file.write(checkpoint(State(VERSION, 1, 1, (64, 48), ())))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(BlockingIOError, match="another process holds"):
        CheckpointFile(path, ABOUT, 10**9)
    file.close()
    path.parent.chmod(0o755)
    with pytest.raises(PermissionError, match="chmod 700"):
        CheckpointFile(path, ABOUT, 10**9)


@pytest.mark.parametrize("content", [b"", b"PCNT", b"\0" * 5000, b"x" * (2 << 20)])
def test_a_file_of_garbage_is_a_new_run_with_one_line(path, content, caplog):
    caplog.set_level("INFO")
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    file = CheckpointFile(path, ABOUT, 10**9)
    file.close()
    assert file.found is None
    assert [r.message.startswith("a new run:") for r in caplog.records] == [True]


def test_a_link_in_its_place_is_not_followed(path, tmp_path):
    path.parent.mkdir(mode=0o700)
    (tmp_path / "other").write_bytes(encode(checkpoint(State(VERSION, time.monotonic_ns(), 1, (64, 48), ()))))
    path.symlink_to(tmp_path / "other")
    file = CheckpointFile(path, ABOUT, 10**10)
    file.close()
    assert file.found is None


def test_each_camera_and_endpoint_has_its_file(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    a, b = "tcp://127.0.0.1:5601", "tcp://127.0.0.1:5611"
    places = {place("front", (a,)), place("rear", (a,)), place("front", (b,)), place("front", (a, b))}
    assert len(places) == 4
    assert place("front", ("tcp://127.0.0.1:*",)) is None
    assert all(p is not None and p.parent == tmp_path / "perception" for p in places)
    monkeypatch.chdir("/")
    elsewhere = place("front", ("ipc://x",))
    monkeypatch.chdir(tmp_path)
    assert place("front", ("ipc://x",)) != elsewhere
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert continuity.state_folder() == Path.home() / ".local/state/perception"


# The node


@contextmanager
def node(launch_file: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "perception.cli", "run", str(launch_file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclasses.dataclass
class Heard:
    """All messages since the beginning, by a subscriber that stays while nodes come and go."""

    socket: zmq.Socket[bytes]
    messages: list[wire.Message] = dataclasses.field(default_factory=list)

    def until_confirmed(self, run_is_not: str = "", deadline_s: float = 30.0) -> wire.Message:
        """Up to a message on the tracks topic with two confirmed tracks."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            if self.socket.poll(100):
                self.messages.append(message := wire.decode(self.socket.recv()))
                confirmed = [row for row in message.header.tracks if row.state == "confirmed"]
                if message.topic == "front/tracks" and len(confirmed) == 2 and message.header.run != run_is_not:
                    return message
        raise AssertionError("no two confirmed tracks in time")


def test_a_killed_node_goes_on_and_a_late_one_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    model = tiny_panoptic(tmp_path, CARD + FEATURES)
    (tmp_path / "people.py").write_text(people_camera(0.03, walks=False))
    text = (
        'version = 1\ntopics = ["road", "panoptic"]\n'
        f'[source]\nurl = "exec:{sys.executable} {tmp_path}/people.py"\n'
        f'[model]\npath = "{model}"\nengine = "onnxruntime"\nthreads = 1\n'
        f'[publish]\nendpoints = ["ipc://{tmp_path}/socket/front"]\n[control]\nendpoint = ""\n'
        '[tracking]\nkind = "affinity"\nlost_for_s = 30.0\ncontinue_for_s = '
    )
    first, late = tmp_path / "first.toml", tmp_path / "late.toml"
    first.write_text(text + "30.0")
    late.write_text(text + "0.01")
    context = zmq.Context()
    heard = Heard(context.socket(zmq.SUB))
    heard.socket.subscribe(b"front/")
    heard.socket.connect(f"ipc://{tmp_path}/socket/front")
    try:
        (tmp_path / "socket").mkdir(mode=0o700)
        with node(first) as process:
            before = heard.until_confirmed()
            until(lambda: confirmed_in(tmp_path / "state" / "perception") == 2)  # a thread writes: it may be late
            process.kill()
            process.wait(10)
        while heard.socket.poll(50):
            heard.messages.append(wire.decode(heard.socket.recv()))
        killed_at = len(heard.messages)
        with node(first) as process:
            after = heard.until_confirmed()
            process.terminate()
            said = process.communicate(timeout=10)[1]
        assert "continuing run" in said
        assert "with 2 tracks after" in said
        assert after.header.run == before.header.run
        assert {row.id for row in after.header.tracks} == {row.id for row in before.header.tracks}
        frames = [m for m in heard.messages[killed_at:] if m.topic == "front/tracks"]
        assert frames.index(after) < 3
        check_seqs(heard.messages)
        with running(build_node(read_launch(late))):
            fresh = heard.until_confirmed(before.header.run)
        assert fresh.seq < RESERVE
        assert {row.id for row in fresh.header.tracks} == {1, 2}
    finally:
        context.destroy(0)


def aged(folder: Path, gap_s: float) -> None:
    """Let the checkpoint of a dead node be so much older: a restart later, without the wait for it."""
    (path,) = folder.glob("front-*.run")
    found, gap_ns = decode(path.read_bytes()), round(gap_s * 1e9)
    stamps = ("first_ns", "last_ns", "hidden_ns", "moved_ns")
    tracks = tuple(
        msgspec.structs.replace(t, **{name: getattr(t, name) - gap_ns for name in stamps})
        for t in found.identities.tracks
    )
    state = msgspec.structs.replace(found.identities, stamp_ns=found.identities.stamp_ns - gap_ns, tracks=tracks)
    path.write_bytes(encode(msgspec.structs.replace(found, identities=state)))


def test_with_the_usual_settings_ids_outlive_a_kill_and_a_long_restart(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "state" / "perception"
    model = tiny_panoptic(tmp_path, CARD + FEATURES)
    (tmp_path / "people.py").write_text(people_camera(0.03, walks=False))
    launch = tmp_path / "usual.toml"
    launch.write_text(
        f'version = 1\ntopics = ["road"]\n[source]\nurl = "exec:{sys.executable} {tmp_path}/people.py"\n'
        f'[model]\npath = "{model}"\nengine = "onnxruntime"\nthreads = 1\n[control]\nendpoint = ""\n'
        f'[publish]\nendpoints = ["ipc://{tmp_path}/socket/front"]\n[tracking]\nkind = "affinity"\n'
    )
    (tmp_path / "socket").mkdir(mode=0o700)
    context = zmq.Context()
    heard = Heard(context.socket(zmq.SUB))
    heard.socket.subscribe(b"front/tracks")
    heard.socket.connect(f"ipc://{tmp_path}/socket/front")
    try:
        with node(launch) as process:
            before = heard.until_confirmed()
            until(lambda: confirmed_in(folder) == 2)
            process.kill()
            process.wait(10)
        while heard.socket.poll(50):
            heard.socket.recv()
        aged(folder, 5.0)
        with running(build_node(read_launch(launch))):  # in this process, which is quickly there
            after = heard.until_confirmed()
    finally:
        context.destroy(0)
    assert after.header.run == before.header.run
    assert {row.id for row in after.header.tracks} == {row.id for row in before.header.tracks}


def test_a_node_keeps_what_was_removed_from_coming_back(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    node = build_node(stepped_launch(tmp_path))
    turns = os.open(tmp_path / "turns", os.O_RDWR)
    folder, control = tmp_path / "state" / "perception", node.control
    assert control

    def next_frame() -> None:
        frames = node.pulse.frames
        os.write(turns, b".")
        until(lambda: node.pulse.frames > frames)

    with running(node), closing(os.fdopen(turns)):
        until(lambda: node.pulse.frames == 1)
        for _ in range(2):
            next_frame()
        until(lambda: confirmed_in(folder) == 2)
        asking = threading.Thread(target=Control(control.endpoint).remove, args=(1,))
        asking.start()
        until(lambda: bool(control._queue))
        next_frame()  # after which the request is answered, and no other comes
        asking.join(10)
        until(lambda: confirmed_in(folder) == 1, 2.0)


def stepped_launch(folder: Path) -> Launch:
    """A live camera of two people that gives its first frame, and another for each byte in the pipe `turns`."""
    os.mkfifo(folder / "turns")
    launch, camera = live_launch(folder, RecordConfig()), people_camera(0.0, walks=False)
    camera = f"turns = open({str(folder / 'turns')!r}, 'rb', 0)\n" + camera.replace("time.sleep(0.0)", "turns.read(1)")
    (folder / "camera.py").write_text(camera)
    return msgspec.structs.replace(
        launch,
        record=False,
        tracking=msgspec.structs.replace(launch.tracking, continue_for_s=10.0),
        source=msgspec.structs.replace(launch.source, stall_s=60.0, reopen_s=60.0),
    )


def confirmed_in(folder: Path) -> int:
    files = [decode(path.read_bytes()) for path in folder.glob("front-*.run")]
    return sum(track.state is TrackState.CONFIRMED for file in files for track in file.identities.tracks)


def check_seqs(messages: list[wire.Message]) -> None:
    """Of each topic and of the events, rising by one but for the jump at the restart; repeated last words apart."""
    last: dict[str, int] = {}
    for message in messages:
        if message.seq == last.get(message.topic):
            continue  # the last value, sent again to who joined
        assert message.seq > last.get(message.topic, 0), message.topic
        last[message.topic] = message.seq


def test_why_a_run_is_not_continued_is_said_on_the_health_topic(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    launch = stepped_launch(tmp_path)
    path = place(launch.camera, launch.publish.endpoints)
    assert path
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_bytes(encode(checkpoint(State(VERSION, 1, 1, (64, 48), ())))[:-1])  # truncated
    node = build_node(launch)
    with running(node), closing(os.fdopen(os.open(tmp_path / "turns", os.O_RDWR))):
        told = healths(node.publisher.endpoints[0], lambda h: h.state == "running")[-1]
        assert told.reason == "a new run, with new ids: the one before is not continued: damaged"
        node.report.seq = NEW_RUN_BEATS  # half a minute later
        later = healths(node.publisher.endpoints[0], lambda h: h.seq > NEW_RUN_BEATS)[-1]
        assert (later.state, later.reason) == ("running", "")


def test_a_first_run_has_nothing_to_excuse(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    node = build_node(stepped_launch(tmp_path))
    with running(node), closing(os.fdopen(os.open(tmp_path / "turns", os.O_RDWR))):
        assert healths(node.publisher.endpoints[0], lambda h: h.state == "running")[-1].reason == ""


def test_a_drive_is_never_continued(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    drive = build_node(launch)
    drive.run()
    drive.close()
    assert drive.continuity is None
    assert not (tmp_path / "state").exists()


def test_two_settings_of_continuing_are_one_replay(launch):
    runs = set()
    for seconds in (0.0, 10.0):
        tracking = msgspec.structs.replace(launch.tracking, continue_for_s=seconds)
        runs.add(replay_run(check_launch(msgspec.structs.replace(launch, tracking=tracking)), "drive"))
    assert len(runs) == 1


def test_without_a_folder_the_node_runs_all_the_same(launch, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert open_checkpoint(check_launch(launch), SourceInfo(0, 0, 0.0, boot_id(), "")) is None
    assert "can't be continued" in caplog.text
    assert os.listdir(tmp_path).count("file") == 1

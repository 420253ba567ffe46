"""Exact snapshots: a propagator that takes one up says the same as the one it was taken of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.engines import open_engine
from perception.errors import PromptError, SnapshotError
from perception.models.card import find
from perception.models.panoptic import PanopticModel
from perception.propagation import snapshot
from perception.propagation.continuation import remember, restore
from perception.propagation.field_types import fits, hints_of
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.rules import FusionRules
from perception.propagation.snapshot import FORMAT, KINDS, PARTS, copy, put, take
from perception.propagation.state_graph import LARGEST, ArrayNode, Flattening, Node, Rebuilding, encoded
from perception.propagation.tracks import LifeCycle, LiveTrack
from perception.sources.rendered import RenderedReader
from perception.types import Frame, Prompt, TrackState, Validity
from tests.fakes import FakeCarrier
from tests.snapshot_drive import CROWD, CUT, FROZEN, HIDDEN, JUMP, SHAPES, SLOTS, Follower, built, driven, plain
from tests.walk import noise

# after a prompt, with a hidden thing, in the crowd, after a relabelling, with few left, before, at and after the cut,
# with a frozen camera, before a jump in time
POINTS = (0, 8, HIDDEN[3], CROWD[-3], 28, 37, CUT - 1, CUT, CUT + 1, FROZEN[-6], JUMP - 1)
WAYS = [
    *[("iou", False, 1), ("iou", False, 3)],
    *[("affinity", True, 1), ("affinity", False, 3)],
    *[("memory", True, 1), ("memory", True, 3), ("memory", False, 1)],
]
"""Kind, whether the class map is smoothed, and every how many frames the network looks."""


@dataclass(frozen=True)
class Driven:
    """A propagator after the whole drive, all that it said, and snapshots on the way."""

    propagator: Follower
    said: list[tuple]
    snapshots: dict[int, bytes]


@cache
def driven_once(kind: str, smooths: bool, every: int) -> Driven:
    propagator, said, snapshots = built(kind, smooths), [], {}
    for i, scene in driven(propagator, every):
        said.append(scene)
        if i in POINTS:
            snapshots[i] = take(propagator)
    return Driven(propagator, said, snapshots)


def at(kind: str, point: int = CROWD[-3]) -> bytes:
    return driven_once(kind, kind != "iou", 1).snapshots[point]


# The same from there on


@pytest.mark.parametrize(("kind", "smooths", "every"), WAYS)
def test_from_a_snapshot_on_all_is_as_if_nothing_had_been(kind: str, smooths: bool, every: int):
    before = driven_once(kind, smooths, every)
    for point, data in before.snapshots.items():
        after = built(kind, smooths)
        put(after, data)
        assert take(after) == data
        for i, scene in driven(after, every, since=point + 1):
            assert scene == before.said[i], (point, i)
        assert take(after) == take(before.propagator)


CARRIED = {"affinity": (False, 3), "memory": (True, 3)}


@pytest.mark.parametrize("kind", ["affinity", "memory"])
def test_the_drive_has_what_a_propagator_remembers(kind: str):
    said = driven_once(kind, True, 1).said
    reasons = {row[3] for scene in said for row in scene[6] if len(row) == 5}
    states = {row[2] for scene in said for row in scene[6] if len(row) == 5}
    assert states == set(TrackState)
    assert {"first seen", "prompted", "removed on request", "found again", "the picture jumped"} <= reasons
    assert Validity.DEGRADED in {scene[2] for scene in said[FROZEN[0] :]}
    assert max(scene[5] for scene in said) > SLOTS
    assert Validity.PROPAGATED in {scene[2] for scene in driven_once(kind, *CARRIED[kind]).said}


def test_the_drive_uses_a_second_bucket():
    propagator = built("memory")
    put(propagator, at("memory"))
    assert isinstance(propagator, FusedPropagator)
    assert isinstance(propagator.carrier, MemoryCarrier)
    assert [bucket.is_used for bucket in propagator.carrier._buckets] == [True, True]


@pytest.mark.parametrize("kind", ["iou", "affinity", "memory"])
@pytest.mark.parametrize("steps", [0, 3])
def test_after_a_restart_a_snapshot_holds_what_went_on(kind: str, steps: int):
    """Before the first frame it has the masks of prompted things that are still to be looked for."""
    old = built(kind)
    for _ in zip(range(30), driven(old), strict=False):
        pass
    restarted, again = built(kind), built(kind)
    restore(restarted, remember(old, old_stamp := 29 * 33_333_333), old_stamp)
    scenes = driven(restarted, since=30)
    for _ in range(steps):
        next(scenes)
    put(again, take(restarted))
    assert steps or kind == "iou" or (isinstance(again, FusedPropagator) and again._seeds)
    for (i, scene), (_, same) in zip(scenes, driven(again, since=30 + steps), strict=True):
        assert scene == same, i


@pytest.mark.parametrize("kind", ["iou", "affinity", "memory"])
def test_of_a_propagator_that_has_seen_nothing(kind: str):
    fresh, again = built(kind), built(kind)
    put(again, take(fresh))
    assert [s for _, s in zip(range(20), driven(fresh), strict=False)] == [
        s for _, s in zip(range(20), driven(again), strict=False)
    ]


@pytest.mark.parametrize("kind", ["iou", "affinity", "memory"])
def test_what_a_propagator_knew_before_is_forgotten(kind: str):
    smooths = kind != "iou"
    used = driven_once.__wrapped__(kind, smooths, 3).propagator
    put(used, at(kind))
    assert take(used) == at(kind)
    said = driven_once(kind, smooths, 1).said
    for i, scene in driven(used, since=CROWD[-3] + 1):
        assert scene == said[i]


def test_a_copy_shares_nothing_with_the_propagator():
    for kind in ("iou", "affinity", "memory"):
        propagator = built(kind)
        put(propagator, at(kind, 8))
        copied = copy(propagator)
        for _ in driven(propagator, since=9):
            pass
        assert copied.encode() == at(kind, 8)


def test_what_parts_share_they_share_afterwards():
    propagator = built("memory")
    put(propagator, at("memory"))
    assert isinstance(propagator, FusedPropagator)
    followed = [track for _, track in propagator.slots.followed()]
    assert len(followed) > SLOTS
    assert {id(track) for track in followed} <= {id(track) for track in propagator.life.tracks}
    assert propagator.roster.life is propagator.life
    assert propagator.meeting.roster is propagator.roster


def test_before_the_next_frame_there_is_nothing_to_point_at():
    propagator = built("affinity")
    put(propagator, at("affinity"))
    with pytest.raises(PromptError, match="no frame has come yet"):
        propagator.prompt(Prompt(points=((5.0, 5.0),)))


def test_layout_and_kind_of_numbers_are_kept():
    kept = [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3), np.zeros((2, 0)), np.array(7, np.int16)]
    kept[1].setflags(write=False)
    flat = Flattening(KINDS)
    value = flat.value([*kept, np.float32(0.1), {2: (1.5, None), 1: "a"}, float("inf"), -(1 << 62)])
    wired = msgspec.msgpack.encode([encoded(node, zstandard.ZstdCompressor()) for node in flat.nodes])
    nodes = msgspec.msgpack.decode(wired, type=list[Node])
    found = Rebuilding(KINDS, nodes).value(value)
    for old, new in zip(kept, found, strict=False):
        assert np.array_equal(old, new)
        assert (old.dtype, old.flags.writeable) == (new.dtype, new.flags.writeable)
        assert old.strides == new.strides or not old.size
    assert type(found[4]) is np.float32
    assert list(found[5].items()) == [(2, (1.5, None)), (1, "a")]
    assert found[6:] == [float("inf"), -(1 << 62)]


# Fields that colleagues add


def test_a_new_field_of_a_part_is_kept_of_itself():
    old, new = built("affinity"), built("affinity")
    old.life.strictness = [1, 2.5]  # type: ignore[attr-defined]
    new.life.strictness = []  # type: ignore[attr-defined]
    put(new, take(old))
    assert new.life.strictness == [1, 2.5]  # type: ignore[attr-defined]


def test_a_snapshot_with_a_field_more_is_of_another_version():
    old = built("affinity")
    old.life.strictness = 1  # type: ignore[attr-defined]
    refused("another version of this program", built("affinity"), take(old))
    refused("another version of this program", old, take(built("affinity")))


def test_a_field_that_its_dataclass_does_not_declare_is_an_error():
    propagator = built("affinity")
    put(propagator, at("affinity"))
    assert propagator.life.tracks[0].carriage
    propagator.life.tracks[0].carriage.mood = 1  # type: ignore[attr-defined]
    with pytest.raises(SnapshotError, match=r"Carriage has other fields than it declares: .*mood"):
        take(propagator)


def test_something_of_an_unknown_class_is_an_error():
    walk = FusedPropagator((128, 64), LifeCycle(), FakeCarrier(), 4, (2, 3))
    with pytest.raises(SnapshotError, match="no snapshot can hold a FakeCarrier"):
        take(walk)
    propagator = built("iou")
    propagator._unseen = np.array([None])  # type: ignore[assignment]
    with pytest.raises(SnapshotError, match="no snapshot can hold a object"):
        take(propagator)


def test_every_field_that_has_a_role_is_there():
    for propagator in (built("iou"), built("affinity"), built("memory")):
        for part in _parts(propagator):
            role = PARTS[type(part)]
            assert {*role.settings, *role.unstored, *role.pictures} <= set(vars(part)), part


def _parts(part: Any) -> list[Any]:
    return [part, *(p for inner in vars(part).values() if type(inner) in PARTS for p in _parts(inner))]


def test_flicker_is_flicker_also_after_a_snapshot():
    old, again = built("iou"), built("iou")
    flickering = [noise(i, 1 + i % 2) for i in range(3)]
    for frame in flickering[:2]:
        old.step(frame, None)
    put(again, take(old))
    for propagator in (old, again):
        assert propagator.change.cut(flickering[2]) == ""


# Refusals


def refused(match: str, propagator: Follower, data: bytes) -> None:
    """Refused with one line, and the propagator is as it was."""
    before = take(propagator)
    with pytest.raises(SnapshotError, match=match) as error:
        put(propagator, data)
    assert "\n" not in str(error.value)
    assert take(propagator) == before


OTHERS = {
    "FusedPropagator.mask_size: .128, 64., here .256, 64.": {"size": (256, 64)},
    "FusedPropagator.rules": {"rules": FusionRules(present=0.4)},
    "LifeCycle.lost_for_ns": {"lost_for_ns": 1},
    "MemoryCarrier.slots: 32, here 16": {"slots": SLOTS},
    "MemoryCarrier._shapes": {"shapes": SHAPES | {"memory_pointers": (1, SLOTS, 4)}},
    "ClassMap._is_stuff|StuffSmoother._classes": {"classes": 5},
    "smoother is StuffSmoother, here it is none": {"smooths": False},
}


@pytest.mark.parametrize("match", OTHERS)
def test_other_settings_are_refused_by_name(match: str):
    refused(match, built("memory", **OTHERS[match]), at("memory"))


def test_other_settings_of_the_baseline_are_refused_by_name():
    refused(r"IouPropagator.least_iou: 0.3, here 0.5; use the model", built("iou", least_iou=0.5), at("iou"))


@pytest.mark.parametrize(("kind", "other"), [("iou", "memory"), ("memory", "affinity"), ("affinity", "iou")])
def test_another_kind_is_refused_by_name(kind: str, other: str):
    refused("snapshot's (propagator|carrier) is .*, here it is", built(kind), at(other))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "does not begin"),
        (b"PSNAP", "another version"),
        (b"\x80\x04K\x01.", "does not begin"),
        (FORMAT[:-1] + b"\x01" + bytes(40), "another version of this program: .*format 01, here 03"),
        (FORMAT, "checksum"),
        (FORMAT + bytes(64), "checksum"),
        (snapshot._sealed(b""), "truncated"),
        (snapshot._sealed(b"\x01"), "Expected `array`"),
        (snapshot._sealed(b"\x91" * 100_000), "damaged"),
        (snapshot._sealed(msgspec.msgpack.encode([{}, 0, []])), "damaged"),
        (snapshot._sealed(msgspec.msgpack.encode([{"Mood": ["x"]}, 0, []])), "another version .*Mood has x"),
        (snapshot._sealed(msgspec.msgpack.encode([{"LiveTrack": ["x"]}, 0, []])), "another version .*LiveTrack has x"),
    ],
)
def test_foreign_bytes_are_refused(data: bytes, match: str):
    refused(match, built("iou"), data)


@pytest.mark.parametrize(("told", "kept"), [(LARGEST + 1, LARGEST + 1), (LARGEST + 1, 8), (8, LARGEST + 1), (8, 9)])
def test_what_would_fill_the_memory_is_refused(told: int, kept: int):
    """The size that a frame of zstd declares is allocated before anything is unpacked."""
    compressor = zstandard.ZstdCompressor().compressobj(size=kept)
    data = compressor.compress(bytes(8)) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    nodes = [ArrayNode("|u1", (0,), (told,), True, data)]
    refused("more than there is or may be", built("iou"), snapshot._sealed(msgspec.msgpack.encode([{}, 0, nodes])))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_refused(data: st.DataObject):
    whole = at("affinity", 8)
    place = data.draw(st.integers(0, len(whole) - 1))
    piece = data.draw(st.binary(max_size=4))
    changed = whole[:place] + piece + whole[place + data.draw(st.integers(0, 4)) :]
    if changed == whole:
        return
    with pytest.raises(SnapshotError):
        put(built("affinity"), changed)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_forged_bytes_are_refused_or_taken_up_whole(data: st.DataObject):
    """With a checksum that is right: whatever it says, nothing but the documented error."""
    payload = bytearray(_unsealed(at("affinity", 8)))
    for _ in range(data.draw(st.integers(1, 4))):
        # nodes are at both ends, and arrays between them
        end = data.draw(st.sampled_from([0, 1]))
        place = data.draw(st.integers(0, 3000))
        payload[len(payload) - 1 - place if end else place] = data.draw(st.integers(0, 255))
    propagator = built("affinity")
    before = take(propagator)
    try:
        put(propagator, snapshot._sealed(bytes(payload)))
    except SnapshotError:
        assert take(propagator) == before


def _unsealed(data: bytes) -> bytes:
    return data[len(FORMAT) + 16 :]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_forged_nodes_are_refused_or_taken_up_whole(data: st.DataObject):
    schema, root, nodes = msgspec.msgpack.decode(_unsealed(at("affinity", 8)))
    junk = st.one_of(
        st.none(), st.booleans(), st.integers(-5, 300), st.floats(), st.text(max_size=4), st.binary(max_size=4)
    )
    value = junk | st.tuples(st.just("ref"), st.integers(-2, len(nodes) + 2)) | st.lists(junk, max_size=3)
    node = data.draw(st.sampled_from([n for n in nodes if len(n) > 2 and n[0] != "array"]))
    inner = node[2]
    if isinstance(inner, dict) and inner:
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(value)
    elif isinstance(inner, list) and inner:
        inner[data.draw(st.integers(0, len(inner) - 1))] = data.draw(value)
    else:
        node[2] = data.draw(value)
    propagator = built("affinity")
    before = take(propagator)
    try:
        put(propagator, snapshot._sealed(msgspec.msgpack.encode([schema, root, nodes])))
    except SnapshotError:
        assert take(propagator) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("track_id", "1"), ("track_id", True), ("mask", np.zeros((2, 2), np.uint8)), ("segment", None), ("state", "lost")],
)
def test_fields_of_another_type_do_not_fit(field: str, value: Any):
    assert not fits(value, hints_of(LiveTrack)[field])


# The shipped model


@pytest.mark.parametrize("kind", ["iou", "affinity", "memory"])
def test_a_rendered_drive_with_the_shipped_model(kind: str):
    pytest.importorskip("onnxruntime")
    stamped = _rendered()
    propagator, again, said, data = _road_propagator(kind), _road_propagator(kind), [], b""
    for i, (frame, seen) in enumerate(stamped):
        said.append(plain(propagator.step(frame, seen, seen.features)))
        if i == 3:
            data = take(propagator)
    put(again, data)
    assert [plain(again.step(frame, seen, seen.features)) for frame, seen in stamped[4:]] == said[4:]
    assert propagator.life.tracks
    assert take(again) == take(propagator)


@cache
def _road() -> PanopticModel:
    files = find("road")
    model = PanopticModel(files, open_engine(files.graph, "onnxruntime", 1))
    model.wants_features = True
    return model


@cache
def _rendered() -> list[tuple[Frame, Any]]:
    frames = [
        Frame(i, s.stamp_ns, "front", np.asarray(s.image))
        for i, s in enumerate(RenderedReader(3, 12, 640, 360).shots())
    ]
    return [(frame, _road()(frame.image)) for frame in frames]


def _road_propagator(kind: str) -> Follower:
    files = find("road")
    usual = built(kind, size=_road().mask_size)
    if isinstance(usual, IouPropagator):
        return usual
    table, carrier = files.card.class_table(), usual.carrier
    if kind == "memory":
        assert files.propagator
        carrier = MemoryCarrier(open_engine(files.propagator, "onnxruntime", 1))
    return FusedPropagator(_road().mask_size, LifeCycle(), carrier, len(table.names), table.thing_ids)

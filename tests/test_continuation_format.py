"""The bytes of a checkpoint of ids: they come back as they were; damage and what is of another run are refused."""

from __future__ import annotations

import struct
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.continuity import Numbers, decode, encode, usable
from perception.propagation.continuation import VERSION, State, TrackMemory, checked, remember, restore
from perception.types import TrackState
from tests.continuation_fakes import ABOUT, HEIGHT, WIDTH, checkpoint, fused

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

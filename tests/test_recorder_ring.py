"""A recorder that keeps the last seconds in memory until a trigger saves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.display import recorded
from perception.drives.block import Block
from perception.drives.layout import Record, StateRow
from perception.drives.recording import open_recording
from perception.drives.ring import Ring
from perception.sinks.recorder import Recorder
from tests.recorder_fakes import ABOUT, HERE, Run, folder, of, record, records  # noqa: F401 (a fixture)
from tests.test_segment import SECOND

# ruff: noqa: F811


def saved(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


RING = replace(HERE, ring_s=3.0, after_s=1.0)


def test_without_a_trigger_a_ring_writes_nothing(folder):
    recorder = record(folder, 60, RING).recorder
    assert not saved(folder)
    assert not recorder.has_lost
    assert recorded(recorder) == "recorded nothing: no trigger came"


def test_a_trigger_saves_the_last_seconds_and_the_next_ones(folder):
    recorder = Recorder(folder, ABOUT, RING)
    run = Run(recorder).frames(300)
    recorder.trigger("Health: failed!")
    run.frames(100, 300)
    recorder.close()
    (path,) = saved(folder)
    assert path.name == "trigger-0001-health-failed"
    recording = open_recording(path)
    found = list(recording.messages())
    assert found[0].topic == "/front/state"
    images = [r.sequence for r in of(found, "image")]
    assert images == list(range(images[0], 310))
    assert images[0] <= 270
    assert msgspec.msgpack.decode(found[0].data, type=StateRow).frame_seq == images[0] - 1
    assert recording.certificate
    assert recording.certificate.reason == "Health: failed!"
    assert recording.certificate.is_complete
    assert of(found, "annotations")


def test_a_trigger_before_the_first_frame_saves_the_seconds_after_it(folder):
    recorder = Recorder(folder, ABOUT, RING)
    recorder.trigger("no input")
    Run(recorder).frames(30)
    recorder.close()
    (path,) = saved(folder)
    assert [r.sequence for r in of(records(path), "image")] == list(range(11))


def test_another_trigger_meanwhile_makes_it_longer_and_a_later_one_makes_the_next(folder):
    recorder = Recorder(folder, ABOUT, RING)
    run = Run(recorder).frames(100)
    recorder.trigger("first")
    run.frames(5, 100)
    recorder.trigger("second")
    run.frames(100, 105)
    recorder.trigger("third")
    recorder.close()
    one, two = saved(folder)
    assert (one.name, two.name) == ("trigger-0001-first", "trigger-0002-third")
    assert [r.sequence for r in of(records(one), "image")][-1] == 114
    told = open_recording(one).certificate
    assert told
    assert told.reason == "first, second"
    assert [r.sequence for r in of(records(two), "image")][-1] == 204


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_a_ring_holds_its_window_and_begins_with_the_newest_state_before_it(steps, seconds):
    ring, now, told = Ring(seconds, 1 << 30), 0, []
    for step, has_state in steps:
        now += step * SECOND
        block = Block(has_state=has_state)
        block.add(Record("/front/image", "", "", now, now, 0, b"x"))
        told.append(block)
        ring.add(block)
    held, begin = ring.blocks(), now - seconds * SECOND
    assert held == told[len(told) - len(held) :]
    assert {b.log_ns for b in told if b.log_ns >= begin} <= {b.log_ns for b in held}
    older = [b for b in told if b.log_ns <= begin and b.has_state]
    assert held[0] is (older[-1] if older else next(b for b in told if b.log_ns >= begin or b.has_state))
    assert ring.size == len(held)


def test_a_ring_without_states_keeps_to_its_window(folder):
    recorder = Recorder(folder, ABOUT, RING)
    run = Run(recorder)
    recorder.wants_state = lambda: False  # type: ignore[method-assign]
    run.frames(100)
    recorder.trigger("x")
    recorder.close()
    (path,) = saved(folder)
    assert [r.sequence for r in of(records(path), "image")] == list(range(69, 100))


def test_triggers_of_an_earlier_run_are_not_touched(folder):
    for _ in range(2):
        recorder = Recorder(folder, ABOUT, RING)
        Run(recorder).frames(20)
        recorder.trigger("x")
        recorder.close()
    assert [p.name for p in saved(folder)] == ["trigger-0001-x", "trigger-0002-x"]


def test_a_ring_is_bounded_in_bytes(folder):
    recorder = Recorder(folder, ABOUT, replace(RING, frames="raw", ring_s=100.0, ring_bytes=1_000_000))
    Run(recorder).frames(200)
    recorder.trigger("x")
    recorder.close()
    (path,) = saved(folder)
    assert 10 < len(of(records(path), "image")) < 40

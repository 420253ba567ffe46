"""The recorder's queue: what it drops when it is full, and in what order things leave it."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.drives.block import Block
from perception.drives.layout import Decision, StateRow
from perception.sinks.assembly import Assembler
from perception.sinks.record_queue import Asked, Captured, Noted, RecordQueue, Sent
from perception.sinks.recorder import Recorder
from perception.types import Frame
from tests.published import eventually
from tests.recorder_fakes import ABOUT, HERE, PERIOD, Run, certificate, folder, of, records, state  # noqa: F401 (a fixture)

# ruff: noqa: F811


def image_item(seq: int) -> Captured:
    return Captured(Frame(seq, seq, "front", np.zeros((10, 10, 3), np.uint8)), 0)


def test_a_full_queue_drops_the_oldest_images_first():
    queue = RecordQueue(1000, 100)
    for seq in range(4):
        assert queue.put(image_item(seq))
    assert queue.put(Sent([("front/road", bytes(500))], 0))
    taken = [queue.take(0) for _ in range(5)]
    seqs = [item.frame.seq if item.frame else None for item in taken if isinstance(item, Captured)]
    assert seqs == [None, None, None, 3]
    assert isinstance(taken[-1], Sent)
    assert not queue.take_dropped()
    assert queue.size == 0


def test_messages_are_dropped_when_no_image_is_left():
    queue = RecordQueue(1000, 100)
    assert queue.put(Sent([("front/road", bytes(900))], 0))
    assert not queue.put(Sent([("front/road", bytes(200)), ("front/lane", bytes(2))], 0))
    assert queue.put(image_item(0))  # as one that is lost
    assert queue.take_dropped() == {"front/road": 1, "front/lane": 1}
    assert not queue.take_dropped()


def test_the_number_of_items_is_bounded_too():
    queue = RecordQueue(1000, 2)
    assert [queue.put(Asked("x")) for _ in range(3)] == [True, True, False]
    assert queue.take_dropped() == {"": 1}


def test_a_queue_that_waits_loses_nothing():
    queue = RecordQueue(1000, 100, waits=True)
    thread = threading.Thread(target=lambda: [queue.put(image_item(seq)) for seq in range(20)])
    thread.start()
    taken = [queue.take(5) for _ in range(20)]
    thread.join()
    assert [item.frame.seq for item in taken if isinstance(item, Captured) and item.frame] == list(range(20))


def test_a_closed_queue_gives_what_it_has_and_takes_no_more():
    queue = RecordQueue(10_000, 100)
    queue.put(Noted(Decision(1, 1, "stepped")))
    queue.close()
    assert not queue.put(Asked("late"))
    assert queue.take(None)
    assert queue.take(None) is None


def test_a_queue_is_drained_once_it_is_closed_and_empty():
    queue = RecordQueue(10_000, 100)
    assert not queue.is_drained
    queue.put(Asked("first"))
    queue.close()
    assert not queue.is_drained
    assert queue.take(None)
    assert queue.is_drained


def test_what_comes_right_before_the_recorder_is_closed_is_kept(folder, monkeypatch):
    monkeypatch.setattr("perception.sinks.recorder.TICK_S", 0.001)
    take, told = RecordQueue.take, threading.Event()
    recorders: list[Recorder] = []

    def slow_take(queue: RecordQueue, timeout_s: float | None):
        item = take(queue, timeout_s)
        if item is None and recorders and not told.is_set():  # another thread's turn
            recorders[0].decided(Decision(1, PERIOD, "stepped"))
            queue.close()
            told.set()
        return item

    monkeypatch.setattr(RecordQueue, "take", slow_take)
    recorders.append(Recorder(folder, ABOUT, HERE))
    assert told.wait(10)
    recorders[0].close()
    assert [r.sequence for r in of(records(folder), "decisions")] == [1]
    assert certificate(recorders[0]).stepped == 1


def test_what_the_queue_loses_is_in_the_certificate(folder):
    recorder = Recorder(folder, ABOUT, replace(HERE, waits=False, queue_bytes=2 << 20))
    held = threading.Event()

    def slow_state() -> StateRow:
        held.wait(10)
        return state(0, 1)

    recorder.state(slow_state)
    assert eventually(lambda: recorder.stats().queued == 0)
    run = Run(recorder)
    for seq in range(8):  # 480 kB each
        image = np.zeros((400, 400, 3), np.uint8)
        recorder.captured(Frame(seq, seq * PERIOD + 1, "front", image), 1)
        recorder.decided(Decision(seq, seq * PERIOD + 1, "dropped"))
    held.set()
    recorder.close()
    told = certificate(run.recorder)
    images = told.channels["/front/image"]
    assert (images.expected, told.captured, told.channels["/front/decisions"].written) == (8, 8, 8)
    assert images.written < 8
    assert told.lost == {"the recorder's queue was full": 8 - images.written}
    assert not told.is_complete


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["capture", "decide"]), max_size=40), st.integers(1, 3))
def test_every_image_is_there_once_and_before_its_decision(steps, most):
    """In any order in which a capture thread and a pipeline can tell it."""
    assembler, seqs, undecided = Assembler(ABOUT, "raw", 90), itertools.count(), []
    blocks: list[Block] = []
    for step in steps:
        if step == "capture" and len(undecided) < most:
            undecided.append(next(seqs))
            frame = Frame(undecided[-1], undecided[-1] * PERIOD, "front", np.zeros((2, 2, 3), np.uint8))
            blocks += assembler.captured(Captured(frame, 1))
        elif undecided:
            seq = undecided.pop(0)
            blocks += assembler.noted(Noted(Decision(seq, seq * PERIOD, "stepped")))
    blocks += assembler.flush()
    found = [r for block in blocks for r in block.records]
    images = [r.sequence for r in of(found, "image")]
    assert images == list(range(next(seqs)))
    for i, decision in enumerate(found):
        if decision.topic == "/front/decisions":
            assert decision.sequence in [r.sequence for r in of(found[:i], "image")]
    assert sum((block.expected for block in blocks), Counter()) == Counter(r.topic for r in found)

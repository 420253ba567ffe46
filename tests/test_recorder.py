from __future__ import annotations

import io
import itertools
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.display import recorded
from perception.drives import disk, segments, syncing
from perception.drives.block import Block
from perception.drives.disk import DiskGuard, leftovers
from perception.drives.layout import About, Certificate, ControlCall, Decision, Record, StateRow
from perception.drives.recording import open_recording
from perception.drives.ring import Ring
from perception.drives.schemas import message_type
from perception.drives.segment import SegmentWriter
from perception.drives.segments import RecordingWriter, SegmentLimits
from perception.drives.syncing import Syncer
from perception.errors import RecordingError
from perception.sinks.assembly import Assembler
from perception.sinks.messages import SceneEncoder
from perception.sinks.record_queue import Asked, Captured, Noted, RecordQueue, Sent
from perception.sinks.recorder import Recorder, RecordSettings
from perception.types import Frame
from tests import published
from tests.published import eventually
from tests.test_segment import SECOND, file_limit, held_indices

KILLS = 5
"""How often a recorder is killed; the asked figure is of 20."""
OFFSET = 1_700_000_000_000_000_000
PERIOD = 100_000_000  # [ns] ten frames a second
ABOUT = About("recording-1", "front", "run-1", "boot", OFFSET)
DRIVE = About("recording-1", "front", "run-1", "drive", 0)
HERE = RecordSettings(least_free_bytes=0, waits=True)
MASKS = {"road", "lane", "pedestrian", "panoptic", "instances"}


class Run:
    """A node's run, as it is told to a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.encoder = SceneEncoder(published.identity(wall_offset_ns=OFFSET), published.topics())
        self.sent: list[tuple[str, bytes]] = []

    def frame(self, seq: int, what: str = "stepped") -> None:
        stamp_ns = seq * PERIOD + 1
        image = np.full((72, 128, 3), seq % 256, np.uint8)
        self.recorder.captured(Frame(seq, stamp_ns, "front", image), stamp_ns + 5)
        if what == "stepped":
            messages = self.encoder.encode(replace(published.scene(seq), stamp_ns=stamp_ns, frame_seq=seq))
            self.sent += messages
            self.recorder.sent(messages, stamp_ns + OFFSET + 9)
        self.recorder.decided(Decision(seq, stamp_ns, what, arrived_ns=stamp_ns + 5, sent_ns=stamp_ns + 8))
        if self.recorder.wants_state():
            self.recorder.state(lambda: state(seq, stamp_ns))

    def frames(self, count: int, first: int = 0) -> Run:
        for seq in range(first, first + count):
            self.frame(seq)
        return self


def state(seq: int, stamp_ns: int) -> StateRow:
    return StateRow(seq, stamp_ns, seq + 1, {"road": seq}, 0, b"events", b"propagator")


def record(folder: Path, count: int, settings: RecordSettings = HERE, about: About = ABOUT) -> Run:
    recorder = Recorder(folder, about, settings)
    run = Run(recorder).frames(count)
    recorder.close("the test is over")
    return run


def records(folder: Path) -> list[Record]:
    return list(open_recording(folder).messages())


def tell(recorder: Recorder, stamp_ns: int) -> None:
    """A frame without messages."""
    seq, image = stamp_ns // PERIOD, np.zeros((8, 8, 3), np.uint8)
    recorder.captured(Frame(seq, stamp_ns, "front", image), stamp_ns)
    recorder.decided(Decision(seq, stamp_ns, "stepped"))


def block(log_ns: int, has_state: bool = True) -> Block:
    made = Block(has_state=has_state)
    made.add(Record("/front/image", "", "", log_ns, log_ns, 0, b"x"))
    return made


def of(found: list[Record], name: str) -> list[Record]:
    return [r for r in found if r.topic == f"/front/{name}"]


def certificate(recorder: Recorder) -> Certificate:
    assert recorder.certificate
    return recorder.certificate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "drives" / "run"


def test_all_that_was_told_is_in_the_recording(folder):
    run = record(folder, 12)
    found = records(folder)
    assert [r.sequence for r in of(found, "image")] == list(range(12))
    assert [r.log_ns - OFFSET for r in of(found, "image")] == [seq * PERIOD + 1 for seq in range(12)]
    wire = [r for r in found if "/wire/" in r.topic]
    assert [(r.topic.replace("/wire", "")[1:], r.data) for r in wire] == run.sent
    assert {r.publish_ns - r.log_ns for r in wire} == {9}
    assert {r.topic.rpartition("/")[2] for r in found if "/masks/" in r.topic} == MASKS
    assert len(of(found, "annotations")) == 12
    rows = [msgspec.json.decode(r.data, type=Decision) for r in of(found, "decisions")]
    assert [row.frame_seq for row in rows] == list(range(12))
    recording = open_recording(folder)
    assert recording.about
    assert msgspec.structs.replace(recording.about, began_ns=0) == ABOUT
    assert recording.certificate == certificate(run.recorder)
    assert certificate(run.recorder).is_complete
    assert (certificate(run.recorder).captured, certificate(run.recorder).stepped) == (12, 12)
    assert certificate(run.recorder).channels["/front/masks/road"].written == 12


def test_an_image_a_message_and_a_decision_of_a_frame_are_one_chunk(folder):
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader, breakup_chunk

    record(folder, 5)
    with (folder / "0000.mcap").open("rb") as file:
        chunks = [breakup_chunk(r) for r in StreamReader(file, emit_chunks=True).records if isinstance(r, Chunk)]
    stamps = [{m.log_time for m in chunk if hasattr(m, "log_time")} for chunk in chunks]  # type: ignore[attr-defined]
    assert [s for s in stamps if s] == [{OFFSET + seq * PERIOD + 1} for seq in (0, 0, 1, 2, 3, 4)]  # with one state


def test_every_topic_can_be_decoded_by_the_schema_in_the_file(folder):
    decoder = pytest.importorskip("mcap_protobuf.decoder")
    from mcap.reader import make_reader

    record(folder, 3, about=msgspec.structs.replace(ABOUT, calibration=CALIBRATION))
    names, factory = {}, decoder.DecoderFactory()
    with (folder / "0000.mcap").open("rb") as file:
        for schema, channel, message in make_reader(file, validate_crcs=True).iter_messages():
            names[channel.topic] = schema.name if schema else ""
            decode = factory.decoder_for(channel.message_encoding, schema)
            if schema and decode:
                assert decode(message.data).DESCRIPTOR.full_name == schema.name
            elif schema:
                assert set(json.loads(message.data)) >= set(json.loads(schema.data)["required"])
    assert names["/front/image"] == "foxglove.CompressedImage"
    assert names["/front/calibration"] == "foxglove.CameraCalibration"
    assert names["/front/annotations"] == "foxglove.ImageAnnotations"
    assert names["/front/masks/road"] == "foxglove.RawImage"
    assert names["/front/decisions"] == "perception.Decision"
    assert len(names) == 17


CALIBRATION = """
name = "front"
width = 1280
height = 720
[lens]
fx = 1000.0
fy = 1000.0
cx = 640.0
cy = 360.0
[mount]
position = [1.0, 0.0, 1.5]
"""


def test_the_calibration_is_in_pixels_of_the_images(folder):
    record(folder, 2, about=msgspec.structs.replace(ABOUT, calibration=CALIBRATION))
    (found,) = of(records(folder), "calibration")
    message = message_type("foxglove.CameraCalibration").FromString(found.data)
    assert (message.width, message.height, message.K[0]) == (128, 72, 100.0)


@pytest.mark.parametrize(("form", "schema"), [("png", "foxglove.CompressedImage"), ("raw", "foxglove.RawImage")])
def test_images_can_be_kept_as_they_are(folder, form, schema):
    record(folder, 2, replace(HERE, frames=form))
    found = of(records(folder), "image")
    assert {r.schema for r in found} == {schema}
    data = message_type(schema).FromString(found[1].data).data
    flat = np.frombuffer(data, np.uint8)
    image = flat if form == "raw" else cv2.imdecode(flat, cv2.IMREAD_COLOR)
    assert image is not None
    assert (image == 1).all()


def test_images_and_masks_can_be_left_out(folder):
    run = record(folder, 2, replace(HERE, frames="none", masks=False))
    names = {r.topic for r in records(folder)}
    assert not [n for n in names if "masks" in n or "image" in n or "annotations" in n]
    assert certificate(run.recorder).captured == 2
    assert certificate(run.recorder).is_complete


def test_the_published_preview_is_not_kept(folder):
    recorder = Recorder(folder, ABOUT, HERE)
    recorder.sent([("front/image", b"a preview"), ("front/odd", b"not a message")], 1)
    recorder.close()
    assert [r.topic for r in records(folder)] == ["/front/wire/odd"]


def test_control_calls_are_kept(folder):
    recorder = Recorder(folder, ABOUT, HERE)
    run = Run(recorder).frames(2)
    call = ControlCall(1, PERIOD + 1, b"request", b"reply")
    recorder.called(call)
    run.frames(1, 2)
    recorder.close()
    (found,) = of(records(folder), "control")
    assert msgspec.msgpack.decode(found.data, type=ControlCall) == call
    assert (found.sequence, found.log_ns) == (1, OFFSET + PERIOD + 1)


def test_a_dropped_frame_is_kept_with_its_reason(folder):
    recorder = Recorder(folder, ABOUT, HERE)
    run = Run(recorder)
    run.frame(0)
    run.frame(1, "dropped")
    recorder.decided(Decision(2, 2 * PERIOD, "broken", "undecodable"))
    run.frame(3)
    recorder.close()
    found = records(folder)
    assert [r.sequence for r in of(found, "image")] == [0, 1, 3]
    what = [msgspec.json.decode(r.data, type=Decision).what for r in of(found, "decisions")]
    assert what == ["stepped", "dropped", "broken", "stepped"]
    told = certificate(recorder)
    assert (told.captured, told.stepped, told.dropped) == (4, 2, 1)


def test_a_segment_ends_at_a_frame_and_the_next_begins_with_a_state(folder):
    run = record(folder, 40, replace(HERE, segment_s=1.0))
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == [f"{i:04d}.mcap" for i in range(len(files))]
    assert len(files) == 4
    images = []
    for number, file in enumerate(files):
        part = open_recording(file)
        assert part.about
        assert part.about.segment == number
        found = list(part.messages())
        assert "/front/state" in [r.topic for r in found[:20]]
        if number:
            assert found[0].topic == "/front/state"
        images.append([r.sequence for r in of(found, "image")])
    assert list(itertools.chain(*images)) == list(range(40))
    assert certificate(run.recorder).segments == len(files)


def test_a_recording_can_be_one_segment(folder):
    limits = SegmentLimits(math.inf, 1 << 62)
    writer = RecordingWriter(folder, ABOUT, DiskGuard(folder.parent, "stop", 0), limits)
    for hour in range(5):
        block = Block()
        block.add(Record("/front/wire/odd", "", "perception", OFFSET + hour * 3600 * SECOND, OFFSET, 1, b"x"))
        writer.write(block)
    assert writer.close("done")
    assert [p.name for p in folder.iterdir()] == ["0000.mcap"]


def test_a_recording_holds_the_index_of_its_open_segment_only(folder, monkeypatch):
    monkeypatch.setattr(syncing, "SYNC_S", 0.001)
    before = held_indices()
    writer = RecordingWriter(folder, ABOUT, DiskGuard(folder.parent, "stop", 0), SegmentLimits(1.0))
    for second in range(20):
        block = Block(has_state=True)
        block.add(Record("/front/wire/odd", "", "perception", OFFSET + second * SECOND, OFFSET, second, b"x"))
        writer.write(block)
    assert eventually(lambda: len(list(folder.glob("*.mcap"))) == 19)
    assert eventually(lambda: held_indices() == before + 1)
    assert writer.close("done")
    assert held_indices() == before
    assert writer.size == sum(path.stat().st_size for path in folder.iterdir())


def writer_of(folder: Path, seconds: float) -> RecordingWriter:
    return RecordingWriter(folder, DRIVE, DiskGuard(folder.parent, "stop", 0), SegmentLimits(seconds))


def test_a_segment_that_begins_at_0_is_as_long_as_others(folder):
    writer = writer_of(folder, 1.0)
    for i in range(6):
        writer.write(block(i * SECOND // 2))
    writer.close("done")
    spans = [file.span for file in open_recording(folder).files]
    assert spans == [(i * SECOND, i * SECOND + SECOND // 2) for i in range(3)]


def test_what_was_lost_on_its_way_here_ends_no_segment(folder):
    writer = writer_of(folder, 60.0)
    writer.write(Block(captured=1, lost=Counter({"the recorder's queue was full": 1})))
    writer.write(block(OFFSET))
    writer.write(Block(captured=1, lost=Counter({"the recorder's queue was full": 1})))
    writer.write(block(OFFSET + SECOND))
    writer.close("done")
    assert [file.span for file in open_recording(folder).files] == [(OFFSET, OFFSET + SECOND)]


def test_a_large_segment_ends_too(folder):
    record(folder, 30, replace(HERE, frames="raw", masks=False, segment_bytes=20_000))
    assert len(list(folder.iterdir())) > 1


def test_a_state_is_wanted_every_five_seconds(folder):
    record(folder, 110)
    found = of(records(folder), "state")
    assert len(found) == 3
    rows = [msgspec.msgpack.decode(r.data, type=StateRow) for r in found]
    assert all(b.stamp_ns - a.stamp_ns >= 5_000_000_000 for a, b in itertools.pairwise(rows))


def test_the_state_before_the_first_frame_is_at_its_time(folder):
    recorder = Recorder(folder, ABOUT, HERE)
    recorder.state(lambda: state(-1, 0))
    Run(recorder).frames(2, first=50)
    recorder.close()
    first = records(folder)[0]
    assert (first.topic, first.log_ns) == ("/front/state", OFFSET + 50 * PERIOD + 1)


def test_the_first_state_is_asked_for_once(folder):
    recorder = Recorder(folder, ABOUT, HERE)
    recorder.state(lambda: state(-1, 0))
    Run(recorder).frames(5, first=1000)
    recorder.close()
    assert len(of(records(folder), "state")) == 1


def test_the_state_of_a_drive_waits_for_its_first_frame_at_0(folder, monkeypatch):
    monkeypatch.setattr("perception.sinks.recorder.TICK_S", 0.01)
    recorder = Recorder(folder, DRIVE, HERE)
    recorder.state(lambda: state(-1, 0))
    size = recorder.stats().size
    recorder.sent([("front/odd", b"no message at all")], 0)
    assert eventually(lambda: recorder.stats().size > size)  # the network takes a while with the first frame
    for seq in range(3):
        tell(recorder, seq * PERIOD)
    recorder.close()
    recording = open_recording(folder)
    assert [r.log_ns for r in of(list(recording.messages()), "state")] == [0]
    assert (recording.begin_ns, recording.end_ns, len(recording.segments)) == (0, 2 * PERIOD, 1)


def test_the_next_state_is_wanted_five_seconds_after_a_frame_at_0(folder):
    recorder = Recorder(folder, DRIVE, HERE)
    recorder.state(lambda: state(-1, 0))
    wanted = []
    for second in range(6):
        tell(recorder, second * SECOND)
        wanted.append(recorder.wants_state())
    recorder.close()
    assert wanted == [False] * 5 + [True]


def test_a_drive_that_never_had_a_frame_begins_at_0(folder):
    recorder = Recorder(folder, DRIVE, HERE)
    recorder.state(lambda: state(-1, 0))
    recorder.close()
    assert [r.log_ns for r in records(folder)] == [0]


def test_what_the_node_says_while_no_frame_comes_is_kept_soon(folder, monkeypatch):
    monkeypatch.setattr("perception.sinks.recorder.TICK_S", 0.01)
    recorder = Recorder(folder, ABOUT, HERE)
    size = recorder.stats().size
    recorder.sent([SceneEncoder(published.identity(), []).encode_health(published.health())], OFFSET)
    assert eventually(lambda: recorder.stats().size > size)
    recorder.close()
    assert [r.topic for r in records(folder)] == ["/front/wire/health"]


def test_a_state_that_can_not_be_told_is_counted(folder):
    def broken() -> StateRow:
        raise RecordingError("no state")

    recorder = Recorder(folder, ABOUT, HERE)
    recorder.state(broken)
    recorder.close()
    assert certificate(recorder).lost == {"a state that can't be kept": 1}


def test_a_mask_that_can_not_be_decoded_is_kept_as_it_was_sent(folder):
    recorder = Recorder(folder, ABOUT, HERE)
    run = Run(recorder).frames(1)
    recorder.sent([("front/road", b"front/road\0damaged")], OFFSET)
    run.frames(1, 1)
    recorder.close()
    told = certificate(recorder)
    assert told.lost == {"a mask that can't be decoded": 1}
    assert (told.channels["/front/wire/road"].written, told.channels["/front/masks/road"].written) == (3, 2)


def test_a_recording_is_not_overwritten(folder):
    record(folder, 1)
    with pytest.raises(RecordingError, match="another folder"):
        Recorder(folder, ABOUT, HERE)


def test_closing_twice_is_fine_and_what_comes_later_is_ignored(folder):
    run = record(folder, 2)
    run.frames(2, 2)
    run.recorder.close()
    assert len(of(records(folder), "image")) == 2


# the queue


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


# disks that fail


def messages_of(caplog: pytest.LogCaptureFixture, level: int = logging.ERROR) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level and r.name.startswith("perception")]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are tried again at the next block."""
    monkeypatch.setattr(segments, "RETRY_S", 0.0)


def settled(recorder: Recorder) -> bool:
    return eventually(lambda: recorder.stats().queued == 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, mounted for the test."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if not done or done.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_stops_the_recording_until_there_is_room(small_disk, soon, caplog):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_500_000))
    recorder = Recorder(small_disk / "run", ABOUT, replace(HERE, frames="png", masks=False))
    run = Run(recorder)
    seq = 0
    while not recorder.stats().stopped and seq < 2000:
        recorder.sent([("front/odd", os.urandom(50_000))], 1)
        run.frame(seq)
        seq += 1
        settled(recorder)
    assert "No space left" in recorder.stats().stopped
    first_lost = seq
    run.frames(10, seq)
    settled(recorder)
    assert len(messages_of(caplog)) == 1
    ballast.unlink()
    run.frames(10, seq + 10)
    recorder.close("the test is over")
    files = sorted(f.name for f in (small_disk / "run").iterdir())
    assert files == ["0000.mcap", "0001.mcap"]
    told = certificate(recorder)
    kept = [r.sequence for r in of(records(small_disk / "run"), "image")]
    lost = sorted(set(range(seq + 20)) - set(kept))
    assert lost == list(range(first_lost, first_lost + 10))
    assert told.lost == {"No space left on device": 10}
    assert told.channels["/front/image"].expected - told.channels["/front/image"].written == 10
    assert len(messages_of(caplog)) == 1


def test_a_failing_segment_is_left_unfinished_and_the_next_goes_on(folder, soon, caplog):
    recorder = Recorder(folder, ABOUT, replace(HERE, masks=False))
    run = Run(recorder).frames(3)
    settled(recorder)
    assert eventually(lambda: recorder.stats().frames == 3)
    with file_limit(recorder.stats().size + 10):
        run.frames(1, 3)
        assert eventually(lambda: recorder.stats().stopped)
        run.frames(1, 4)
        settled(recorder)
    run.frames(2, 5)
    recorder.close()
    told = certificate(recorder)
    images = [r.sequence for r in of(records(folder), "image")]
    assert images[:3] == [0, 1, 2]
    assert images[-2:] == [5, 6]
    assert told.channels["/front/image"].written == len(images)
    assert told.lost == {"File too large": 7 - len(images)}
    assert len(messages_of(caplog)) == 1
    assert (folder / "0000.mcap.active").exists()
    assert not (folder / "0000.mcap").exists()


def test_frames_that_overtake_another_one_count_once(folder):
    """A live node's: images come while a frame is in work, and are decided about before it is."""
    recorder = Recorder(folder, ABOUT, replace(HERE, masks=False))
    overtaking(recorder, range(30))
    recorder.close()
    assert recorder.stats().frames == 30
    assert not recorder.has_lost


def test_lost_frames_that_overtake_another_one_count_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    recorder = Recorder(tmp_path / "file" / "run", ABOUT, HERE)
    overtaking(recorder, range(30))
    recorder.close()
    assert recorder.stats().lost == {"Not a directory": 30}
    assert recorder.has_lost


def overtaking(recorder: Recorder, seqs: range) -> None:
    for seq in seqs:
        stamp_ns = seq * PERIOD + 1
        recorder.captured(Frame(seq, stamp_ns, "front", np.zeros((72, 128, 3), np.uint8)), stamp_ns + 5)
        if seq % 3 == 2:
            for behind in (seq - 1, seq - 2, seq):
                recorder.decided(Decision(behind, behind * PERIOD + 1, "dropped"))


def test_no_state_is_wanted_while_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    writer = RecordingWriter(tmp_path / "file" / "run", ABOUT, DiskGuard(tmp_path, "stop", 0))
    assert not writer.wants_state


def test_a_folder_that_vanishes_is_made_again(folder, soon, monkeypatch):
    monkeypatch.setattr(syncing, "SYNC_S", 0.001)
    recorder = Recorder(folder, ABOUT, replace(HERE, masks=False))
    run = Run(recorder).frames(3)
    settled(recorder)
    shutil.rmtree(folder)
    seqs = itertools.count(3)
    assert eventually(lambda: [run.frame(next(seqs)), folder.exists()][1])
    run.frame(next(seqs))
    recorder.close()
    told, count = certificate(recorder), next(seqs)
    images = [r.sequence for r in of(records(folder), "image")]
    assert images[-1] == count - 1
    assert told.channels["/front/image"].written == len(images)
    assert told.channels["/front/image"].expected == count
    assert told.lost == {"their segment vanished": count - len(images)}


def test_a_place_that_can_not_be_written_is_told_once_and_nobody_fails(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    recorder = Recorder(tmp_path / "file" / "run", ABOUT, HERE)
    assert recorder.stats().stopped == "Not a directory"
    Run(recorder).frames(5)
    recorder.close()
    assert recorder.certificate is None
    assert recorder.stats().lost == {"Not a directory": 5}
    assert len([m for m in messages_of(caplog) if "stopped" in m]) == 1


def test_a_disk_with_too_little_room_is_not_filled(folder):
    free = shutil.disk_usage(folder.parents[1])
    recorder = Recorder(folder, ABOUT, replace(HERE, least_free_bytes=free.total))  # a tenth of it counts
    is_full = free.free < free.total // 10
    assert bool(recorder.stats().stopped) == is_full
    recorder.close()


# who may delete what


def old_recording(parent: Path, name: str, age: int, kept: bool = False) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    for number in range(2):
        SegmentWriter(folder / f"{number:04d}.mcap", ABOUT).close()
        os.utime(folder / f"{number:04d}.mcap", (time.time() - age, time.time() - age))
    if kept:
        (folder / disk.KEPT).touch()
    return folder


class FullDisk(DiskGuard):
    """One that is never satisfied."""

    def lack(self) -> str:
        return "less than enough"


def drain(guard: DiskGuard) -> None:
    for _ in range(50):
        guard._next_s = 0.0
        if guard.check():
            return


def test_the_oldest_recordings_go_first_and_some_never(tmp_path):
    old = [old_recording(tmp_path, f"old-{age}", age * 100) for age in range(3, 12)]
    kept = old_recording(tmp_path, "kept", 10_000, kept=True)
    open_one = old_recording(tmp_path, "open", 9_000)
    (open_one / "0002.mcap.active").touch()
    foreign = old_recording(tmp_path, "foreign", 8_000)
    (foreign / "0001.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    os.utime(foreign / "0001.mcap", (1, 1))
    mixed = old_recording(tmp_path, "mixed", 7_000)
    (mixed / "notes.txt").touch()
    drain(FullDisk(tmp_path, "delete-oldest", 1))
    assert [p.name for p in old if p.exists()] == [f"old-{age}" for age in range(3, 8)]
    assert all(p.exists() for p in (kept, open_one, foreign, mixed))


def test_a_recording_can_begin_on_a_full_disk_where_old_ones_may_go(tmp_path, monkeypatch):
    monkeypatch.setattr(DiskGuard, "lack", lambda self: "less than enough")
    for age in range(6):
        old_recording(tmp_path, f"old-{age}", age * 100)
    recorder = Recorder(tmp_path / "new", ABOUT, replace(HERE, when_full="delete-oldest"))
    Run(recorder).frames(1)
    recorder.close()
    assert certificate(recorder).is_complete
    assert not (tmp_path / "old-5" / "0000.mcap").exists()
    assert (tmp_path / "old-4" / "0000.mcap").exists()


def test_nothing_is_deleted_unless_it_is_asked_for(tmp_path):
    old = [old_recording(tmp_path, f"old-{age}", age * 100) for age in range(8)]
    guard = FullDisk(tmp_path, "stop", 1)
    assert guard.check() == "less than enough"
    assert all(p.exists() for p in old)


class Interrupting:
    """Has something happen right before the `number`th call that asks the file system for something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[], object]) -> None:
        self.left, self._happens = number, happens
        calls = [(os, name) for name in ("listdir", "scandir", "stat", "lstat", "open", "unlink", "rmdir")]
        for module, name in (*calls, (io, "open")):
            monkeypatch.setattr(module, name, self._counted(getattr(module, name)))

    def _counted(self, real: Callable) -> Callable:
        def asked(*args, **options):
            self.left -= 1
            if not self.left:
                self._happens()
            return real(*args, **options)

        return asked


@pytest.mark.parametrize("many", [1, 2, 4])
def test_two_nodes_may_delete_in_one_folder(tmp_path, monkeypatch, caplog, many):
    """Whatever the one is at when the other deletes `many` segments of the same recordings."""
    monkeypatch.setattr(disk, "NEWEST_KEPT", 1)
    for name, age in (("oldest", 300), ("older", 200), ("newest", 100)):
        old_recording(tmp_path / "all", name, age)
    one, other = (FullDisk(tmp_path / "now", "delete-oldest", 1) for _ in range(2))
    calls = 0
    for number in itertools.count(1):
        calls = number
        shutil.copytree(tmp_path / "all", tmp_path / "now")
        with monkeypatch.context() as patch:
            moment = Interrupting(patch, number, lambda: [other.refusal() for _ in range(many)])
            assert one.refusal() == "" or many == 4
        left = {str(p.relative_to(tmp_path / "now")) for p in (tmp_path / "now").rglob("*")}
        shutil.rmtree(tmp_path / "now")
        assert left >= {"newest/0000.mcap", "newest/0001.mcap"}
        assert "oldest/0001.mcap" not in left or "older/0000.mcap" in left
        if moment.left > 0:
            break
    assert calls > 10
    assert not messages_of(caplog, logging.WARNING)


def test_a_segment_that_can_not_be_found_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(DiskGuard, "lack", lambda self: "less than enough")
    for age in range(7):
        old_recording(tmp_path, f"old-{age}", age * 100)
    lone = tmp_path / "lone"
    lone.mkdir()
    for odd in (lone, tmp_path / "old-6"):
        (odd / "0002.mcap").symlink_to("nowhere")
    recorder = Recorder(tmp_path / "new", ABOUT, replace(HERE, when_full="delete-oldest"))
    Run(recorder).frames(1)
    recorder.close()
    assert certificate(recorder).is_complete
    assert sorted(p.name for p in (tmp_path / "old-6").iterdir()) == ["0000.mcap", "0001.mcap", "0002.mcap"]
    assert sorted(p.name for p in (tmp_path / "old-5").iterdir()) == ["0001.mcap"]


def test_a_disk_that_can_not_be_looked_at_is_too_full(tmp_path):
    guard = DiskGuard(tmp_path / ("x" * 300), "delete-oldest", 0)
    assert guard.refusal().endswith("File name too long")


def test_a_recording_that_vanishes_is_no_leftover(tmp_path, monkeypatch):
    for number in itertools.count(1):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "0000.mcap.active").touch()
        with monkeypatch.context() as patch:
            moment = Interrupting(patch, number, lambda: shutil.rmtree(tmp_path / "run"))
            found = leftovers(tmp_path)
        if moment.left > 0:
            assert found == [tmp_path / "run"]
            break


class LostDisk(DiskGuard):
    """One that can't be looked at, until it can."""

    is_lost = True

    def check(self) -> str:
        if self.is_lost:
            raise FileNotFoundError(2, "No such file or directory", "run/0000.mcap")
        return ""


def test_a_guard_that_fails_stops_the_recording_and_not_the_syncer(tmp_path, monkeypatch):
    monkeypatch.setattr(syncing, "SYNC_S", 0.001)
    guard = LostDisk(tmp_path, "stop", 0)
    syncer = Syncer(guard)
    first, second = (SegmentWriter(tmp_path / f"{number:04d}.mcap", ABOUT) for number in range(2))
    syncer.watch(first)
    assert eventually(lambda: syncer.trouble() == "No such file or directory")
    guard.is_lost = False
    syncer.watch(second)
    assert eventually(first.path.exists)
    assert syncer.trouble() == ""
    syncer.close()
    second.close()


def test_leftovers_of_dead_processes_are_told_and_those_of_living_ones_not(folder, caplog):
    dead = folder.parent / "dead"
    dead.mkdir(parents=True)
    (dead / "0003.mcap.active").write_bytes(b"what is left")
    living = folder.parent / "living"
    living.mkdir()
    writer = SegmentWriter(living / "0000.mcap", ABOUT)
    assert leftovers(folder.parent) == [dead]
    record(folder, 1)
    told = [m for m in messages_of(caplog, logging.WARNING) if "perception drive recover" in m]
    assert len(told) == 1
    assert f"{dead} --in-place`" in told[0]
    assert (dead / "0003.mcap.active").read_bytes() == b"what is left"
    writer.abandon()


# the ring


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


# kill -9


def killed(folder: Path, after_s: float) -> int:
    """Run a recorder for a while and kill it; the last frame that it had captured."""
    script = Path(__file__).with_name("kill_recorder.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout
        said = [child.stdout.readline()]
        timer = threading.Timer(after_s, child.send_signal, [signal.SIGKILL])
        timer.start()
        said += child.stdout.readlines()
    return int([line for line in said if line.endswith("\n")][-1])


def test_a_killed_recorder_loses_at_most_one_frame(tmp_path):
    chance = random.Random(5)
    for kill in range(KILLS):
        folder = tmp_path / f"run-{kill}"
        last = killed(folder, chance.uniform(0.05, 1.0))
        found = records(folder)
        images = [r.sequence for r in of(found, "image")]
        assert images == list(range(len(images)))
        assert last - images[-1] <= 1
        decided = Counter(r.sequence for r in of(found, "decisions"))
        assert last - max(decided) <= 1
        assert leftovers(tmp_path)

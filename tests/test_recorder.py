"""What is in a recording, where its segments end and its states are; and a recorder that is killed."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from perception.drives import syncing
from perception.drives.block import Block
from perception.drives.disk import DiskGuard, leftovers
from perception.drives.layout import ControlCall, Decision, Record, StateRow
from perception.drives.recording import open_recording
from perception.drives.schemas import message_type
from perception.drives.segments import RecordingWriter, SegmentLimits
from perception.errors import RecordingError
from perception.sinks.messages import SceneEncoder
from perception.sinks.recorder import Recorder
from perception.types import Frame
from tests import published
from tests.published import eventually
from tests.recorder_fakes import (
    ABOUT,
    DRIVE,
    HERE,
    OFFSET,
    PERIOD,
    Run,
    certificate,
    folder,  # noqa: F401 (a fixture)
    of,
    record,
    records,
    state,
)
from tests.test_segment import SECOND, held_indices

# ruff: noqa: F811

KILLS = 5
"""How often a recorder is killed; the asked figure is of 20."""
MASKS = {"road", "lane", "pedestrian", "panoptic", "instances"}


def tell(recorder: Recorder, stamp_ns: int) -> None:
    """A frame without messages."""
    seq, image = stamp_ns // PERIOD, np.zeros((8, 8, 3), np.uint8)
    recorder.captured(Frame(seq, stamp_ns, "front", image), stamp_ns)
    recorder.decided(Decision(seq, stamp_ns, "stepped"))


def block(log_ns: int, has_state: bool = True) -> Block:
    made = Block(has_state=has_state)
    made.add(Record("/front/image", "", "", log_ns, log_ns, 0, b"x"))
    return made


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

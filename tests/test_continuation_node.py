"""Ids across restarts of a node that is killed and goes on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import zmq

from perception import wire
from perception.build import build_node, check_launch, open_checkpoint, replay_run
from perception.client import Control
from perception.clock import boot_id
from perception.config import Launch, RecordConfig, read_launch
from perception.continuity import RESERVE, decode, encode, place
from perception.health import NEW_RUN_BEATS
from perception.propagation.continuation import VERSION, State
from perception.protocols import SourceInfo
from perception.types import TrackState
from tests.continuation_fakes import checkpoint
from tests.recorded_run import live_launch, people_camera
from tests.test_node import healths, running, until
from tests.test_panoptic import CARD, FEATURES, tiny_panoptic


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

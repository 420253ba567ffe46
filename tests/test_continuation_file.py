"""The checkpoint file of ids: what lies on the disk at any moment, and who may hold it."""

from __future__ import annotations

import random
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perception import continuity, wire
from perception.continuity import Checkpoint, CheckpointFile, Continuity, Numbers, decode, encode, place
from perception.propagation.continuation import VERSION, State, remember, restore
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.sinks.messages import SceneEncoder
from tests.continuation_fakes import ABOUT, CAR, HEIGHT, RUN, WIDTH, Camera, checkpoint, fused, looks_of_nothing
from tests.fakes import PERIOD_NS
from tests.published import identity, topics
from tests.test_node import until


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

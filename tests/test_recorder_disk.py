"""Disks that are full, fail or vanish under a recorder, and which old recordings make room."""

from __future__ import annotations

import io
import itertools
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.drives import disk, segments, syncing
from perception.drives.disk import DiskGuard, leftovers
from perception.drives.layout import Decision
from perception.drives.segment import SegmentWriter
from perception.drives.segments import RecordingWriter
from perception.drives.syncing import Syncer
from perception.sinks.recorder import Recorder
from perception.types import Frame
from tests.published import eventually
from tests.recorder_fakes import ABOUT, HERE, PERIOD, Run, certificate, folder, of, record, records  # noqa: F401 (a fixture)
from tests.test_segment import file_limit

# ruff: noqa: F811

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

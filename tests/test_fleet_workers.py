"""Drives in several processes and on Ray: the same digests, and a worker that dies loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from perception.config import read_launch
from perception.errors import ConfigError
from perception.fleet.cluster import MISSING, connect
from perception.fleet.drive_set import Drive
from perception.fleet.judge import Verdict
from perception.fleet.local import in_pool
from perception.fleet.run import Wishes, drives_of, tasks_of, verdicts_on
from perception.machine import cores
from tests.fleet_fakes import held, picture_drive, recording, tiny_launch, wishes

LONG = 300  # frames: about half a second


def digests(verdicts: Iterable[Verdict]) -> dict[str, str]:
    return {v.drive.name: v.outcome.digest if v.outcome else v.text for v in verdicts}


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    for k in range(3):
        picture_drive(tmp_path / "drives" / f"walk{k}", k)
    return tmp_path / "drives"


def kill_workers() -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)


def test_processes_say_what_one_process_says(drives: Path, tmp_path: Path):
    alone = held(tmp_path)
    assert digests(held(tmp_path, out=tmp_path / "other", jobs=2).values()) == digests(alone.values())


def test_a_killed_worker_loses_nothing(drives: Path, tmp_path: Path):
    recording(drives / "long.mcap", LONG)
    asked = wishes(tmp_path, jobs=2)
    killed: list[str] = []

    def kill_once(what: str, done: int, total: int) -> None:
        if what == "long" and not killed:
            killed.append(what)
            kill_workers()

    found = list(verdicts_on(drives_of([str(drives)], asked), asked, kill_once))
    assert killed
    assert not list((tmp_path / "out").glob("*.partial-*"))
    assert digests(found) == digests(held(tmp_path, out=tmp_path / "other").values())


def test_a_drive_that_kills_every_worker_is_listed(drives: Path, tmp_path: Path):
    recording(drives / "long.mcap", LONG)
    asked = wishes(tmp_path, jobs=2)
    found = {
        verdict.drive.name: verdict
        for verdict in verdicts_on(
            drives_of([str(drives)], asked), asked, lambda what, done, total: kill_workers() if what == "long" else None
        )
    }
    assert found["long"].status == "failed"
    assert re.search("died [2-4] times: signal 9", found["long"].text)
    assert len(found) == 4


class Deadly:
    """A task that ends the worker which takes it up, once a file is there."""

    def __init__(self, name: str, waits_for: Path) -> None:
        self.drive = Drive(name, name, name)
        self._waits_for = waits_for

    def __reduce__(self) -> tuple[Any, ...]:
        wait = f"while not os.path.exists({str(self._waits_for)!r}): time.sleep(0.01)"
        return exec, (f"import os, time\n{wait}\nos._exit(3)",)


def test_a_worker_may_die_after_another_was_not_replaced(tmp_path: Path):
    tasks: list[Any] = [Deadly("first", tmp_path), Deadly("second", tmp_path / "go")]
    found = []
    for verdict in in_pool(tasks, 2, lambda what, done, total: None):
        found.append(verdict.drive.name)
        (tmp_path / "go").touch()
    assert found == ["first", "second"]


class Hanging:
    """A task that its worker never comes back from."""

    def __init__(self, name: str) -> None:
        self.drive = Drive(name, name, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import signal\nwhile True: signal.pause()",)


def test_a_worker_that_says_nothing_any_more_is_ended(tmp_path: Path):
    tasks: list[Any] = [Hanging("first"), Hanging("second")]
    found = {v.drive.name: v for v in in_pool(tasks, 2, lambda what, done, total: None, silent_s=0.1)}
    assert {verdict.status for verdict in found.values()} == {"failed"}
    assert "no word from it for 0 min" in found["first"].text
    assert set(found) == {"first", "second"}
    assert not multiprocessing.active_children()


def test_workers_warn_as_one_process_does(tmp_path: Path):
    tiny_launch(tmp_path)
    for name in ("one.mcap", "two.mcap"):
        path = recording(tmp_path / name, 36)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    main = "from perception.cli import main\nif __name__ == '__main__': main()"
    (tmp_path / "main.py").write_text(main)
    words = ("test", "one.mcap", "two.mcap", "--against", "none", "--launch", "launch.toml", "-j", "2")
    told = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "main.py", *words], cwd=tmp_path, env=told, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "not finished" in line]
    assert len(lines) == 2, done.stderr[-2000:]
    assert all(line.startswith("WARNING perception.drives.ending: ") for line in lines)


def test_what_a_killed_run_left_is_cleared(drives: Path, tmp_path: Path):
    held(tmp_path)
    left = tmp_path / "out" / f"walk0-0-0.partial-{os.uname().nodename}-999999999"
    left.mkdir()
    held(tmp_path)
    assert not left.exists()


def test_cores_are_shared_among_processes(drives: Path, tmp_path: Path):
    for jobs, threads in ((1, 0), (2, max(1, cores() // 2)), (1000, 1)):
        asked = wishes(tmp_path, jobs=jobs)
        assert {task.threads for task in tasks_of(drives_of([str(drives)], asked), asked)} == {threads}


def test_tasks_mean_the_same_in_another_folder(drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny_launch(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = Wishes(Path("out"), Path("reference"), read_launch(Path("launch.toml")), model="blind.onnx")
    task = tasks_of(drives_of(["drives"], asked), asked)[0]
    assert task.launch is not None
    paths = (task.drive.path, task.out, task.against, task.model, task.launch.model.path)
    assert all(Path(path).is_absolute() for path in paths)


def test_an_executor_that_there_is_not(drives: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="ray://host:port"):
        held(tmp_path, on="spark")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"perception-node\[ray\]"):
        connect("ray")
    assert "pip install" in MISSING


RAY = """
import os, signal, sys, threading, time
from pathlib import Path
import psutil
from perception.config import read_launch
from perception.fleet.run import Wishes, drives_of, verdicts_on
from tests.fleet_fakes import held, wishes
from tests.test_fleet_workers import digests

folder = Path(sys.argv[1])
killed = []

def kill_one():
    while not killed:
        for child in psutil.Process().children(recursive=True):
            if any(part.startswith("ray::Player.play") for part in child.cmdline()):
                killed.append(child.pid)
                os.kill(child.pid, signal.SIGKILL)
                return
        time.sleep(0.005)

def main():
    alone = digests(held(folder, out=folder / "alone").values())
    asked = wishes(folder, on="ray")
    threading.Thread(target=kill_one, daemon=True).start()
    there = digests(verdicts_on(drives_of([str(folder / "drives")], asked), asked, lambda *told: None))
    assert there == alone, (there, alone)
    assert killed
    print("equal", len(there))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.skipif("PERCEPTION_TEST_RAY" not in os.environ, reason="ten processes: PERCEPTION_TEST_RAY=1 asks for it")
def test_ray_says_what_one_process_says_though_a_worker_is_killed(drives: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="an extra: pip install 'perception-node[ray]'")
    pytest.importorskip("psutil")
    for k in range(2):
        recording(drives / f"long{k}.mcap", LONG, shift=k)
    script = tmp_path / "on_ray.py"
    script.write_text(RAY)
    root = str(Path(__file__).parent.parent)
    told = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, script, tmp_path], env=told, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("equal 5"), done.stderr[-2000:]

"""A disk that is full while a training ends, and has room again before it is over."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from perception.opencv import cv2  # noqa: E402
from perception.training.checkpoint import SaveError, load_checkpoint, load_network  # noqa: E402
from perception.training.command import Request, train_command  # noqa: E402
from tests.training_fakes import CONFIG, write_config  # noqa: E402

FULL_FOR_A_WHILE = """
import logging, resource, sys, threading, time
from pathlib import Path
import torch
from perception.training.command import Request, train_command

torch.set_num_threads(1)
before = resource.getrlimit(resource.RLIMIT_FSIZE)

class Room(logging.Handler):
    \"\"\"Somebody makes room as soon as the run waits for it.\"\"\"

    def emit(self, record):
        if "waits in memory for room" in record.getMessage():
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

def progress(what, done, total):
    if what.startswith("loss") and done == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

logging.getLogger().addHandler(Room())
train_command(Request(sys.argv[1], Path(sys.argv[2]), device="cpu", steps=4), progress)
"""


pytestmark = pytest.mark.usefixtures("one_thread")


def steps_of(run: Path) -> list[tuple[str, bool]]:
    rows = csv.DictReader((run / "log.csv").read_text().splitlines())
    return [(row["step"], bool(row["miou"])) for row in rows]


def events_of(run: Path, tag: str) -> list[int]:
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return [event.step for event in found.Scalars(tag)]


def test_room_while_the_end_waits_saves_all_that_waited(tmp_path):
    config = write_config(tmp_path, CONFIG.replace("wait_s = 0", "wait_s = 60"))
    run = tmp_path / "run"
    result = subprocess.run([sys.executable, "-c", FULL_FOR_A_WHILE, config, str(run)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert steps_of(run) == [("2", False), ("4", True)]
    assert events_of(run, "training/loss") == [2, 4]
    assert events_of(run, "validation/miou") == [4]
    assert cv2.imread(str(run / "curves.png")) is not None
    about = load_network(run / "best.safetensors")[1]
    last = load_checkpoint(run / "last.safetensors")[1]
    assert about.step == last.step == 4
    assert last.state["best"] == about.miou == last.miou


def test_best_weights_that_found_no_room_are_written_when_the_run_is_resumed(tmp_path):
    """There was room for the log and the last checkpoint only."""
    request = Request(write_config(tmp_path), tmp_path / "run", device="cpu", steps=4)
    blocked = tmp_path / "run" / "best.safetensors"

    def block(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 1:
            blocked.mkdir()

    train_command(request, block)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].state["best"] == -1
    blocked.rmdir()
    resumed = Request(request.config, request.run, resume=True, device="cpu", steps=4)
    outcome = train_command(resumed, lambda *_: None)
    about = load_network(blocked)[1]
    assert (about.step, about.miou) == (4, outcome.best)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].state["best"] == outcome.best


def test_rows_that_waited_are_written_on_ctrl_c(tmp_path):
    """The disk has room for rows, not for a checkpoint."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        if what.startswith("loss") and done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(SaveError, match="with --resume"):
            train_command(Request(write_config(tmp_path), tmp_path / "run", device="cpu", without=["validation"]), fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_of(tmp_path / "run") == [("2", False)]
    assert events_of(tmp_path / "run", "training/loss") == [2]

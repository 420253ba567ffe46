"""A node's run, as a recorder is told of it, and what is then in the recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.drives.layout import About, Certificate, Decision, Record, StateRow
from perception.drives.recording import open_recording
from perception.sinks.messages import SceneEncoder
from perception.sinks.recorder import Recorder, RecordSettings
from perception.types import Frame
from tests import published

OFFSET = 1_700_000_000_000_000_000
PERIOD = 100_000_000  # [ns] ten frames a second
ABOUT = About("recording-1", "front", "run-1", "boot", OFFSET)
DRIVE = About("recording-1", "front", "run-1", "drive", 0)
HERE = RecordSettings(least_free_bytes=0, waits=True)


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


def of(found: list[Record], name: str) -> list[Record]:
    return [r for r in found if r.topic == f"/front/{name}"]


def certificate(recorder: Recorder) -> Certificate:
    assert recorder.certificate
    return recorder.certificate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "drives" / "run"

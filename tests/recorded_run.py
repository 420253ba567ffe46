"""A short live run of a tiny network, recorded: for tests of what recordings hold and of their replays."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from perception.build import build_node
from perception.client import Control
from perception.config import (
    ControlConfig,
    Launch,
    ModelConfig,
    PublishConfig,
    RecordConfig,
    SourceConfig,
    TrackingConfig,
)
from perception.errors import PromptError
from perception.node import Node
from tests.test_node import running
from tests.test_panoptic import CARD, ENCODER, tiny_panoptic

_CAMERA = r"""
import sys, time
def plane(width, height, ground, thing, boxes):
    rows = bytearray([ground]) * (width * height)
    for x0, y0, x1, y1 in boxes:
        for y in range(y0, y1):
            rows[y * width + x0 : y * width + x1] = bytes([thing]) * (x1 - x0)
    return bytes(rows)
out = sys.stdout.buffer
out.write(b"YUV4MPEG2 W64 H32 F30:1 Ip C420jpeg\n")
for k in range(100000):
    shift = (k // 8) % 8 * STEP
    full = [(4 + shift, 8, 18 + shift, 28), (40, 6, 54, 26)]
    half = [tuple(v // 2 for v in box) for box in full]
    chroma = plane(32, 16, 54, 240, half) + plane(32, 16, 34, 110, half)
    out.write(b"FRAME\n" + plane(64, 32, 140 + k % 5, 41, full) + chroma)
    out.flush()
    time.sleep(PERIOD_S)
"""


def people_camera(period_s: float, *, walks: bool) -> str:
    """A program that writes YUV4MPEG2 of two people, of whom one may walk."""
    return _CAMERA.replace("PERIOD_S", str(period_s)).replace("STEP", "2" if walks else "0")


class Busy:
    """A sink that keeps the pipeline's thread for a while, so that frames are dropped."""

    def send(self, frame: object, scene: object) -> None:
        end = time.perf_counter() + 0.004
        while time.perf_counter() < end:
            pass

    def close(self) -> None: ...


def live_launch(folder: Path, record: RecordConfig, network_every: int = 1) -> Launch:
    """A live camera of two people, one walking, through a tiny panoptic network."""
    (folder / "camera.py").write_text(people_camera(0.003, walks=True))  # more frames than the node takes
    return Launch(
        version=1,
        topics=("road", "panoptic"),
        source=SourceConfig(url=f"exec:{sys.executable} {folder}/camera.py"),
        model=ModelConfig(str(tiny_panoptic(folder, CARD + ENCODER)), "onnxruntime", 1, network_every),
        tracking=TrackingConfig(kind="affinity", continue_for_s=0.0),
        publish=PublishConfig(endpoints=(f"ipc://{folder}/socket/front",)),
        control=ControlConfig(endpoint=f"ipc://{folder}/socket/control"),
        record=record,
    )


def record_live(folder: Path, record: RecordConfig, frames: int = 60, network_every: int = 1) -> Path:
    """Run it until so many frames were stepped, with a prompt in the middle; the recording's folder."""
    launch = live_launch(folder, record, network_every)
    node = build_node(launch, [Busy()])
    with running(node):
        reach(node, frames // 2)
        prompt(launch)
        reach(node, frames)
    return next(Path(record.folder).iterdir())


def reach(node: Node, frames: int, deadline_s: float = 20.0) -> None:
    """Wait until the node has stepped so many frames."""
    end = time.monotonic() + deadline_s
    while node.pulse.frames < frames:
        assert time.monotonic() < end, f"{node.pulse.frames} of {frames} frames"
        time.sleep(0.005)


def prompt(launch: Launch) -> None:
    try:
        Control(launch.control.endpoint or "").prompt(box=(24.0, 4.0, 36.0, 12.0))
    except PromptError:  # a refusal is a decision too
        return

"""Drives for a tiny network, as folders of pictures and as recordings: a blue thing on green ground."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from perception.config import Launch, ModelConfig
from perception.drives import layout
from perception.drives.foxglove import Place, image_record
from perception.drives.layout import About, Certificate, Decision, Record, Tally
from perception.drives.schemas import DECISION
from perception.fleet.judge import Verdict
from perception.fleet.run import Wishes, drives_of, verdicts_on
from perception.images import Image
from tests.fakes import CARD, tiny_model
from tests.recorded_drive import OFFSET_NS, write_segment

PERIOD_NS = 33_333_333
SIZE = (64, 32)


def image(i: int, shift: int = 0, hidden: Collection[int] = ()) -> Image:
    """RGB; the thing walks to and fro, and is not there in the frames of `hidden`."""
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    picture[..., 1] = 120
    if i not in hidden:
        left = 4 + shift + abs(i % 40 - 20)
        picture[8:24, left : left + 16] = (0, 0, 250)
    return picture


def picture_drive(folder: Path, shift: int = 0, frames: int = 8) -> Path:
    folder.mkdir(parents=True)
    for i in range(frames):
        cv2.imwrite(str(folder / f"{i:03d}.png"), cv2.cvtColor(image(i, shift), cv2.COLOR_RGB2BGR))
    return folder


def recording(
    path: Path, frames: int = 30, hidden: Collection[int] = (), shift: int = 0, launch: Launch | None = None
) -> Path:
    """An MCAP file with pictures and decisions, and nothing that was said about them."""
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{frames} {sorted(hidden)} {shift}"))
    text = msgspec.json.encode(launch or Launch(version=1)).decode()
    about = About(name, "front", name, "boot", OFFSET_NS, launch=text, frames="png", is_exact=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    tally = {topic: Tally(frames, frames) for topic in (layout.image("front"), layout.decisions("front"))}
    certificate = Certificate("the drive ended", OFFSET_NS, 1, tally, frames, frames)
    return write_segment(path, about, (_records_of(i, image(i, shift, hidden)) for i in range(frames)), certificate)


def _records_of(i: int, picture: Image) -> list[Record]:
    stamp_ns, log_ns = i * PERIOD_NS, i * PERIOD_NS + OFFSET_NS
    decision = msgspec.json.encode(Decision(i, stamp_ns, "stepped", "", True, "onnxruntime"))
    return [
        image_record("front", picture, "png", 90, Place(log_ns, log_ns, i)),
        Record(layout.decisions("front"), DECISION, "json", log_ns, log_ns, i, decision),
    ]


def three_drives(folder: Path) -> Path:
    """Two folders of pictures and a recording."""
    for k in range(2):
        picture_drive(folder / f"walk{k}", k)
    recording(folder / "tunnel.mcap", 12)
    return folder


def tiny_launch(folder: Path) -> Path:
    """A launch file with the tiny network, and `blind.onnx` beside it, which takes blue for red."""
    tiny_model(folder, form="labels")
    tiny_model(folder, form="labels", name="blind", card=CARD.replace("{colour}", "BGR"))
    file = folder / "launch.toml"
    file.write_text('version = 1\n[model]\npath = "tiny.onnx"\nengine = "onnxruntime"\nthreads = 1\n')
    return file


def wishes(folder: Path, model: str = "tiny", **more: Any) -> Wishes:
    """Of a set in this folder: results in `out`, references in `reference`, through the tiny network."""
    if not (folder / "tiny.onnx").exists():
        tiny_launch(folder)
    launch = Launch(version=1, model=ModelConfig(str(folder / f"{model}.onnx"), "onnxruntime", 1))
    return replace(Wishes(folder / "out", folder / "reference", launch), **more)


def held(folder: Path, what: str = "drives", model: str = "tiny", **more: Any) -> dict[str, Verdict]:
    """The verdicts on the drives of a folder, by name."""
    asked = wishes(folder, model, **more)
    drives = drives_of([str(folder / what)], asked)
    return {verdict.drive.name: verdict for verdict in verdicts_on(drives, asked, lambda what, done, total: None)}

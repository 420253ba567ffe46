"""What a launch file may say. Everything has a default except its version.

docs/launch.md is for people: its tables are made of the comments and docstrings here (`python -m tests.launch_page`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

import msgspec

from perception.errors import ConfigError
from perception.strict_toml import check, read_tables

VERSION = 1
Count = Annotated[int, msgspec.Meta(ge=0, le=64)]
Name = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="1 to 64 letters, digits, _ or -")
]  # a part of a topic
EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"]


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the frames come from. A live source (camera, stream, command) has no pace, begin or end of its own."""

    url: str = ""  # one of the forms at the end of docs/launch.md; empty: a rendered drive
    realtime: bool = True  # recorded: play it at the pace it was recorded; false: as fast as possible
    loop: bool = False  # recorded: start anew when it ends
    speed: Annotated[float, msgspec.Meta(ge=0.1, le=10)] = 1.0  # recorded and at its pace: times as fast
    begin_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # recorded: begin so many seconds after its start
    end_s: Annotated[float, msgspec.Meta(gt=0)] | None = None  # recorded: end so many seconds after its start
    stall_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.15  # live: silence that health calls no_input [s]
    reopen_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 2.0  # live: silence after which it is opened again [s]


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network, and what runs it."""

    path: str = "road"  # a shipped model's name (`perception models`), or an .onnx file with its card beside it
    engine: EngineName = "auto"  # what runs the network; auto: the fastest that is here (docs/engines.md)
    threads: Count = 0  # of the CPU's engine; 0: all cores
    # The network looks at every n-th frame, and at once after a cut; masks are carried through those between.
    network_every: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"] = "fp16"  # of tensorrt's numbers (docs/tensorrt.md)
    cache: str = ""  # folder of compiled engines; empty: the user's cache folder


TrackingKind = Literal["auto", "iou", "affinity", "memory"]


class TrackingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How things keep their ids from frame to frame (docs/propagation.md)."""

    # By overlap (iou), likeness (affinity) or a learned memory; auto: memory where model and engine allow, else iou
    kind: TrackingKind = "auto"
    least_iou: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3  # of iou: overlap from which on it is the same thing
    confirm_hits: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3  # sightings until a track is confirmed
    # A thing may be out of sight for so long and come back under its id [s]; not given: 0.35 with iou, else 2.5.
    lost_for_s: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None
    # A live node that is started again within so long goes on with its ids [s]; 0: never.
    continue_for_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 10.0
    smooths: bool = False  # smooth the class map over time, 3.5 ms a frame (docs/propagation.md); not of iou


class CurveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CURVE encryption: `perception keys` makes the files (docs/security.md)."""

    secret: str  # this node's secret key file, of mode 0600
    clients: str  # folder with the public key file of each client that may subscribe


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the masks go (docs/wire.md)."""

    # Each `tcp://ADDRESS:PORT` (port `*`: any that is free), or `ipc:///FOLDER/NAME` in a folder of this user alone.
    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)] = ("tcp://127.0.0.1:5601",)
    encoding: Literal["zstd", "lz4", "raw"] = "zstd"  # how masks are compressed; raw: not at all
    insecure: bool = False  # allow tcp beyond this machine without CURVE: who reaches the port sees all that is sent
    curve: CurveConfig | None = None  # the table [publish.curve]: encrypt, and let in known clients alone


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The socket that takes prompts (docs/control.md); encrypted with publish.curve where that is set."""

    # Empty: none. Not given: tcp://127.0.0.1:5602, or beside an ipc publisher, if it is free.
    endpoint: str | None = None


Trigger = Literal["health", "id_switch", "signal", "control"]


class RecordConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a run (docs/drives.md). `record = true` at the top in place of this table takes all defaults."""

    folder: str = "drives"  # each run makes a folder of its own in it
    frames: Literal["jpeg", "png", "raw", "none"] = "jpeg"  # how pictures are kept
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90  # of a JPEG
    exact: bool = False  # the network sees the picture as the recording gives it back: replays give the same bytes
    masks: bool = True  # masks and boxes also as pictures and annotations that other tools show
    segment_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0  # length of one file [s]
    # Keep only the last seconds, in memory, until a trigger saves them [s]; 0: keep all.
    ring_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    after_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0  # what a trigger saves of the time after it [s]
    # What saves the ring: worse health, a suspected id switch, SIGUSR1, `perception save`.
    triggers: tuple[Trigger, ...] = ("health", "id_switch", "signal", "control")
    when_full: Literal["stop", "delete-oldest"] = "stop"  # end the recording, or delete the oldest ones
    # So much of the disk stays free [GB], or a tenth of it if that is less.
    least_free_gb: Annotated[float, msgspec.Meta(ge=0, le=10000)] = 5.0

    def __post_init__(self) -> None:
        if self.exact and self.frames == "none":
            raise ValueError("exact needs the pictures that the network saw: frames must be jpeg, png or raw")


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands before the first table."""

    version: Literal[1]  # of what launch files may say
    camera: Name = "front"  # its name, the first part of every topic: front/road
    calibration: str = ""  # a file that describes the camera, as those in calibration/; empty: none
    # Which masks are published: groups of classes, the model's own or those below; panoptic: all that the network says.
    topics: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)] = ("road", "lane", "pedestrian")
    groups: dict[Name, tuple[str, ...]] = {}  # the table [groups]: `vehicle = ["car"]` makes a topic of these classes
    source: SourceConfig = SourceConfig()
    model: ModelConfig = ModelConfig()
    tracking: TrackingConfig = TrackingConfig()
    publish: PublishConfig = PublishConfig()
    control: ControlConfig = ControlConfig()
    record: bool | RecordConfig = False  # keep the run as a recording; or the table [record], which does so too

    @property
    def recording(self) -> RecordConfig | None:
        """What to record; None for nothing."""
        return RecordConfig() if self.record is True else self.record or None


def read_launch(path: Path) -> Launch:
    """Read and check a launch file; relative paths in it are taken from its own folder.

    Raises:
        ConfigError: one line with file, key path and what was expected.
    """
    tables = read_tables(path)
    version = tables.get("version")
    if version is None:
        raise ConfigError(f"{path}: the first line must be version = {VERSION}")
    if version != VERSION:
        raise ConfigError(f"{path}: version {version!r} is not one this node reads; write version = {VERSION}")
    return _beside(check(tables, Launch, str(path)), path.parent)


def _beside(launch: Launch, folder: Path) -> Launch:
    """The launch file with its relative file paths made to start in its folder."""

    def locate(text: str) -> str:
        return str(folder / text) if text and not Path(text).is_absolute() else text

    replace = msgspec.structs.replace
    launch = replace(launch, calibration=locate(launch.calibration))
    launch = replace(launch, source=replace(launch.source, url=_located(launch.source.url, folder)))
    if recording := launch.recording:
        launch = replace(launch, record=replace(recording, folder=locate(recording.folder)))
    launch = replace(launch, model=replace(launch.model, cache=locate(launch.model.cache)))
    if launch.model.path.endswith(".onnx"):
        launch = replace(launch, model=replace(launch.model, path=locate(launch.model.path)))
    if launch.publish.curve:
        keys = launch.publish.curve
        keys = replace(keys, secret=locate(keys.secret), clients=locate(keys.clients))
        launch = replace(launch, publish=replace(launch.publish, curve=keys))
    return launch


_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # how a URL begins that is no path
_NO_PATHS = frozenset({"camera", "v4l2", "rtsp", "rtsps", "http", "https", "gst", "exec", "rendered"})


def _located(url: str, folder: Path) -> str:
    """A source's URL, made to start in `folder` where it is a relative path, with or without options behind it."""
    url = url.strip()
    found = _FORM.match(url)
    form = found[1].lower() if found else ""
    if not url or url.isdecimal() or form in _NO_PATHS:
        return url
    if form == "file":
        url, form = url[len("file:") :], ""
        url = unquote(url.removeprefix("//")) if url.startswith("//") else url
    path, mark, options = url.partition("?")
    if form and not os.path.exists(folder / path):  # a form that there is not: the source says so
        return url
    return f"{folder / path}{mark}{options}"

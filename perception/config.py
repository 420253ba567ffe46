"""What a launch file may say. Everything has a default except where the frames come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from perception.errors import ConfigError
from perception.strict_toml import check, read_tables

VERSION = 1
Count = Annotated[int, msgspec.Meta(ge=0, le=64)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the frames come from; `perception doctor` lists the forms a URL can take."""

    url: str = ""  # empty: the rendered drive
    realtime: bool = True  # play a recorded drive at the pace it was recorded
    loop: bool = False  # start a recorded drive anew when it ends
    speed: Annotated[float, msgspec.Meta(ge=0.1, le=10)] = 1.0  # of a recorded drive that is played at its pace
    begin_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # where in a recorded drive to begin
    end_s: Annotated[float, msgspec.Meta(gt=0)] | None = None  # where to end; not given: at its end
    stall_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.15  # silence of a live source that health calls no_input
    reopen_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 2.0  # silence after which it is opened again


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = "road"  # a shipped model's name, or an .onnx file with its card beside it
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"] = "auto"
    threads: Count = 0  # 0: all cores
    network_every: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1  # the network looks at every n-th frame


TrackingKind = Literal["auto", "iou", "affinity", "memory"]


class TrackingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: TrackingKind = "auto"  # auto: memory where model and engine allow, else iou
    least_iou: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3  # of "iou"
    confirm_hits: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3  # sightings until a track is confirmed
    lost_for_s: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None  # may a thing come back; iou 0.35, else 2.5
    continue_for_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 10.0  # a live run outlives restarts so long; 0: never
    smooths: bool = False  # smooth the class map over time, 3.5 ms a frame (docs/propagation.md); not of "iou"


class CurveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CURVE encryption: `perception keys` makes the files."""

    secret: str  # this node's secret key file, 0600
    clients: str  # folder with the public key file of each client that may subscribe


class PublishConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=8)] = ("tcp://127.0.0.1:5601",)
    encoding: Literal["zstd", "lz4", "raw"] = "zstd"
    insecure: bool = False  # allow tcp beyond this machine without CURVE
    curve: CurveConfig | None = None


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The socket that takes prompts; encrypted with publish.curve where that is set."""

    endpoint: str | None = None  # "": none. Not given: tcp://127.0.0.1:5602, or beside an ipc publisher, if it is free


Trigger = Literal["health", "id_switch", "signal", "control"]


class RecordConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a run; docs/drives.md. `record = true` takes all the defaults."""

    folder: str = "drives"  # each run makes a folder of its own in it
    frames: Literal["jpeg", "png", "raw", "none"] = "jpeg"
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90  # of a JPEG
    exact: bool = False  # the network sees the picture as the recording gives it back: replays give the same bytes
    masks: bool = True  # masks and boxes also as pictures and annotations that other tools show
    segment_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 60.0  # one file
    ring_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0  # keep only so much, until a trigger saves it; 0: all
    after_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0  # what a trigger saves of the time after it
    triggers: tuple[Trigger, ...] = ("health", "id_switch", "signal", "control")  # that save the ring
    when_full: Literal["stop", "delete-oldest"] = "stop"
    least_free_gb: Annotated[float, msgspec.Meta(ge=0, le=10000)] = 5.0  # of the disk, or a tenth of it if that is less

    def __post_init__(self) -> None:
        if self.exact and self.frames == "none":
            raise ValueError("exact needs the pictures that the network saw: frames must be jpeg, png or raw")


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A launch file."""

    version: Literal[1]
    camera: Name = "front"
    calibration: str = ""  # a TOML file in calibration/; empty: none
    topics: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)] = ("road", "lane", "pedestrian")
    groups: dict[Name, tuple[str, ...]] = {}  # further topics: name -> class names of the model
    source: SourceConfig = SourceConfig()
    model: ModelConfig = ModelConfig()
    tracking: TrackingConfig = TrackingConfig()
    publish: PublishConfig = PublishConfig()
    control: ControlConfig = ControlConfig()
    record: bool | RecordConfig = False

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
    if recording := launch.recording:
        launch = replace(launch, record=replace(recording, folder=locate(recording.folder)))
    if launch.model.path.endswith(".onnx"):
        launch = replace(launch, model=replace(launch.model, path=locate(launch.model.path)))
    if launch.publish.curve:
        keys = launch.publish.curve
        keys = replace(keys, secret=locate(keys.secret), clients=locate(keys.clients))
        launch = replace(launch, publish=replace(launch.publish, curve=keys))
    return launch

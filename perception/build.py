"""A launch file to a running node: the only place that names concrete classes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perception.clock import boot_id
from perception.config import Launch
from perception.engines import EngineName, open_engine
from perception.errors import ConfigError
from perception.geometry import Camera, load_camera
from perception.health import HealthReport, Pulse
from perception.keys import Curve, read_keys
from perception.labels import ClassTable
from perception.models.card import ModelFiles, find
from perception.models.panoptic import PanopticModel
from perception.models.semantic import SemanticModel
from perception.node import Node
from perception.pipeline import Pipeline
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.protocols import Propagator, Sink, Source, SourceInfo
from perception.sinks.messages import Identity, TopicSpec, panoptic_topics, topic_spec
from perception.sinks.publisher import Publisher
from perception.sources.live import LiveTiming
from perception.sources.url import open_source
from perception.stopwatch import Stopwatch
from perception.types import Scene

SHAPE_TOLERANCE = 0.01  # of the ratio of width to height


@dataclass(frozen=True)
class Checked:
    """What a launch file resolves to before any device is opened."""

    launch: Launch
    files: ModelFiles
    topics: tuple[TopicSpec, ...]
    calibration: Camera | None
    curve: Curve | None


def check_launch(launch: Launch) -> Checked:
    """Resolve everything that a launch file names.

    Raises:
        PerceptionError: the model, a class, a calibration or a key is not there or not right.
    """
    files = find(launch.model.path)
    curve = launch.publish.curve
    keys = Curve(read_keys(curve.secret), Path(curve.clients)) if curve else None
    if keys and not keys.clients.is_dir():
        raise ConfigError(
            f"publish.curve.clients: {keys.clients}: no such folder; make it, one public key file a client"
        )
    calibration = load_camera(launch.calibration) if launch.calibration else None
    return Checked(launch, files, topics_of(launch, files.card.class_table()), calibration, keys)


def topics_of(launch: Launch, classes: ClassTable) -> tuple[TopicSpec, ...]:
    """The topics that a launch file asks for, as classes of this model.

    Raises:
        ConfigError: a topic that neither the card nor the launch file describes, or a class that the model lacks.
    """
    groups = {**classes.groups, **launch.groups}
    specs: list[TopicSpec] = []
    for name in dict.fromkeys(launch.topics):
        if name in groups:
            specs.append(topic_spec(name, classes.indices(groups[name], f"groups.{name}"), classes.thing_ids))
        elif name == "panoptic":
            specs.extend(panoptic_topics(len(classes.names), classes.thing_ids))
        else:
            known = ", ".join(sorted([*groups, "panoptic"]))
            raise ConfigError(f"topics: no group of classes is called {name!r}; known: {known}; add it under [groups]")
    return tuple(specs)


def build_node(launch: Launch, sinks: Sequence[Sink] = (), on_scene: Callable[[Scene], None] | None = None) -> Node:
    """Open everything that a launch file names, the endpoints first: a second node stops before it touches a camera.

    Raises:
        PerceptionError: one line saying what can't be opened and how to mend it.
    """
    checked = check_launch(launch)
    stopwatch = Stopwatch()
    source = build_source(launch)
    opened: list[Callable[[], None]] = [source.close]
    try:
        info = source.info()
        check_calibration(checked, info)
        identity = identity_of(checked, info)
        publisher = build_publisher(checked, identity, stopwatch)
        opened.append(publisher.close)
        frames = iter(source)  # the camera warms up while the network loads
        model = build_model(checked.files, launch, stopwatch)
        opened.append(model.close)
        propagator = build_propagator(launch, model.mask_size)
        pipeline = Pipeline(model, propagator, launch.model.network_every, stopwatch)
        clock = identity.clock
        report = HealthReport(identity.run, boot_id(), clock, model.engine.name, checked.files.name, Pulse(), stopwatch)
        return Node(source, frames, pipeline, publisher, report, sinks, on_scene)
    except BaseException:
        for close in reversed(opened):
            close()
        raise


def build_source(launch: Launch) -> Source:
    timing = LiveTiming(stall_s=launch.source.stall_s, timeout_s=launch.source.reopen_s)
    return open_source(
        launch.source.url,
        camera=launch.camera,
        realtime=launch.source.realtime,
        loop=launch.source.loop,
        timing=timing,
    )


def build_model(files: ModelFiles, launch: Launch, stopwatch: Stopwatch) -> SemanticModel | PanopticModel:
    return open_model(files, launch.model.engine, launch.model.threads, stopwatch)


def open_model(
    files: ModelFiles, engine: EngineName = "auto", threads: int = 0, stopwatch: Stopwatch | None = None
) -> SemanticModel | PanopticModel:
    """A model of the kind that its card says, on an engine of its own.

    Raises:
        ModelError: the engine is missing or can't run the graph, or the graph is not what the card says.
    """
    opened = open_engine(files.graph, engine, threads)
    match files.card.kind:
        case "semantic":
            return SemanticModel(files, opened, stopwatch)
        case "panoptic":
            return PanopticModel(files, opened, stopwatch)


def build_propagator(launch: Launch, mask_size: tuple[int, int]) -> Propagator:
    tracking = launch.tracking
    life = LifeCycle(tracking.confirm_hits, round(tracking.lost_for_s * 1e9))
    match tracking.kind:
        case "iou":
            return IouPropagator(mask_size, life, tracking.least_iou)


def build_publisher(checked: Checked, identity: Identity, stopwatch: Stopwatch) -> Publisher:
    publish = checked.launch.publish
    card = checked.files.card
    return Publisher(
        publish.endpoints,
        identity,
        checked.topics,
        encoding=publish.encoding,
        curve=checked.curve,
        insecure=publish.insecure,
        mask_size=(card.input.width, card.input.height),
        stopwatch=stopwatch,
    )


def calibration_hash(checked: Checked) -> str:
    """What messages say of the calibration: 16 hex digits, "" without one."""
    return checked.calibration.content_hash if checked.calibration else ""


def check_calibration(checked: Checked, info: SourceInfo) -> None:
    """A calibration of another picture shape would put every pixel in the wrong place.

    Raises:
        ConfigError: the source's width and height are known and not in the calibration's ratio.
    """
    camera = checked.calibration
    if camera and info.width and abs(info.width * camera.height / (info.height * camera.width) - 1) > SHAPE_TOLERANCE:
        sizes = f"{camera.width}x{camera.height}, the source gives {info.width}x{info.height}"
        raise ConfigError(f"{checked.launch.calibration}: made for {sizes}: calibrate this camera, or leave it out")


def identity_of(checked: Checked, info: SourceInfo) -> Identity:
    """The run's name and clock. A drive's run is named after its content, so that two replays say the same."""
    is_drive = info.clock == "drive"
    run = replay_run(checked, info.identity) if is_drive else str(uuid.uuid4())
    return Identity(
        run=run,
        camera=checked.launch.camera,
        classes=checked.files.card.class_table().names,
        clock=info.clock,
        wall_offset_ns=0 if is_drive else time.time_ns() - time.monotonic_ns(),
        model=checked.files.identity,
        calibration=calibration_hash(checked),
    )


def replay_run(checked: Checked, drive: str) -> str:
    """UUID of everything that decides the masks: drive, model and the settings of network and tracking."""
    launch = checked.launch
    decides = (drive, checked.files.identity, calibration_hash(checked), launch.camera, launch.model.network_every)
    text = msgspec.json.encode((decides, launch.tracking, launch.topics, launch.groups), order="deterministic")
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text.decode()))

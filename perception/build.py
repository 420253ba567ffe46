"""A launch file to a running node: the only place that names concrete classes."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from perception.clock import boot_id
from perception.config import Launch
from perception.continuity import About, CheckpointFile, Continuity, Numbers, digest, place
from perception.control.answers import Answers
from perception.control.server import ControlServer, open_control
from perception.engines import EngineName, chosen, open_engine
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
from perception.propagation.affinity import AffinityCarrier
from perception.propagation.continuation import Continued, remember, restore
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.protocols import Propagator, Sink, Source, SourceInfo
from perception.sinks.messages import Identity, TopicSpec, panoptic_topics, topic_spec
from perception.sinks.publisher import Publisher
from perception.sources.live import LiveTiming
from perception.sources.redact import shown
from perception.sources.url import open_source
from perception.stopwatch import Stopwatch
from perception.types import Scene

log = logging.getLogger(__name__)

LOST_FOR_S = {"iou": 0.35, "affinity": 2.5, "memory": 2.5}
SHAPE_TOLERANCE = 0.01  # of the ratio of width to height
DEFAULT_CONTROL = "tcp://127.0.0.1:5602"


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
        checkpoint = open_checkpoint(checked, info)
        if checkpoint:
            opened.append(checkpoint.close)
        identity = identity_of(checked, info, checkpoint.found.run if checkpoint and checkpoint.found else "")
        publisher = build_publisher(checked, identity, stopwatch)
        opened.append(publisher.close)
        control = build_control(checked)
        if control:
            opened.append(control.close)
        frames = iter(source)  # the camera warms up while the network loads
        model = build_model(checked.files, launch, stopwatch)
        opened.append(model.close)
        pipeline = build_pipeline(model, checked, stopwatch)
        clock = identity.clock
        report = HealthReport(identity.run, boot_id(), clock, model.engine.name, checked.files.name, Pulse(), stopwatch)
        continuity = build_continuity(checkpoint, pipeline, publisher, report) if checkpoint else None
        return Node(source, frames, pipeline, publisher, report, sinks, on_scene, control, continuity)
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


def build_pipeline(model: SemanticModel | PanopticModel, checked: Checked, stopwatch: Stopwatch) -> Pipeline:
    """The way of a frame through this model and the propagator, who gets features where it needs them.

    Raises:
        ModelError: the engine can't run the encoder or the propagator.
    """
    launch = checked.launch
    propagator = build_propagator(launch, checked.files, model.mask_size)
    if propagator.needs_features and isinstance(model, PanopticModel):
        give_features(model, checked.files, launch)
    return Pipeline(model, propagator, launch.model.network_every, stopwatch)


def give_features(model: PanopticModel, files: ModelFiles, launch: Launch) -> None:
    """Let a model give features: of what it looks at, and by the encoder alone of the frames that it skips, if any.

    Raises:
        ModelError: the engine can't run the encoder, or the encoder is not what the card says.
    """
    model.wants_features = True
    if files.encoder and launch.model.network_every > 1:
        model.open_encoder(open_engine(files.encoder, launch.model.engine, launch.model.threads))


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


def build_propagator(launch: Launch, files: ModelFiles, mask_size: tuple[int, int]) -> Propagator:
    """The propagator that a launch file names, for masks of this size.

    Raises:
        ConfigError: the model lacks what it needs. ModelError: the engine can't run its graph.
    """
    tracking, kind = launch.tracking, tracking_kind(launch, files)
    lost_for_s = LOST_FOR_S[kind] if tracking.lost_for_s is None else tracking.lost_for_s
    life = LifeCycle(tracking.confirm_hits, round(lost_for_s * 1e9))
    table = files.card.class_table()
    smoothed = (len(table.names), table.thing_ids, tracking.smooths)
    match kind:
        case "iou":
            return IouPropagator(mask_size, life, tracking.least_iou)
        case "affinity":
            return FusedPropagator(mask_size, life, AffinityCarrier(), *smoothed)
        case "memory":
            assert files.propagator is not None
            engine = open_engine(files.propagator, launch.model.engine, launch.model.threads)
            return FusedPropagator(mask_size, life, MemoryCarrier(engine), *smoothed)


def tracking_kind(launch: Launch, files: ModelFiles) -> Literal["iou", "affinity", "memory"]:
    """What "auto" means for this model; raises ConfigError where the model lacks what a kind needs."""
    card, kind, skips = files.card, launch.tracking.kind, launch.model.network_every > 1
    if kind == "auto":
        # beside ONNX Runtime on a CPU the memory would take the frame rate from 28 to 18 (docs/propagation.md)
        is_slow = chosen(launch.model.engine) == "onnxruntime"
        return "memory" if card.propagator and (card.encoder or not skips) and not is_slow else "iou"
    if kind == "iou":
        return kind
    if not card.output.feature_names():
        raise ConfigError(f"tracking.kind = {kind!r}: {files.name} gives no features to carry masks by; use 'iou'")
    if kind == "memory" and not card.propagator:
        raise ConfigError(f"tracking.kind = 'memory': {files.name}'s card has no [propagator]; use 'affinity' or 'iou'")
    if skips and not card.encoder:
        raise ConfigError(f"model.network_every: {files.name}'s card has no [encoder] for the skipped frames; use 1")
    return kind


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


def build_control(checked: Checked) -> ControlServer | None:
    """Raises EndpointError for a control endpoint that the launch file asks for and that can't be had."""
    launch = checked.launch
    endpoints = launch.publish.endpoints
    # who publishes over ipc alone keeps other users of the machine out: then nothing listens on tcp unasked
    is_private = all(endpoint.startswith("ipc://") for endpoint in endpoints)
    fallback = f"{endpoints[0]}.control" if is_private else DEFAULT_CONTROL
    answers = Answers(launch.camera, checked.files.card.class_table().names)
    return open_control(launch.control.endpoint, fallback, answers, checked.curve)


def open_checkpoint(checked: Checked, info: SourceInfo) -> CheckpointFile | None:
    """The file by which a live node goes on after a restart; None for a drive, or where there can be no file."""
    launch = checked.launch
    path = place(launch.camera, launch.publish.endpoints)
    if path is None or info.clock == "drive" or not launch.tracking.continue_for_s:
        return None
    source, kind = digest(shown(launch.source.url)), tracking_kind(launch, checked.files)
    about = About(info.clock, launch.camera, source, checked.files.identity, calibration_hash(checked), kind)
    try:
        return CheckpointFile(path, about, round(launch.tracking.continue_for_s * 1e9))
    except OSError as error:
        log.warning("this run can't be continued after a restart: %s", error)
        return None


def build_continuity(
    checkpoint: CheckpointFile, pipeline: Pipeline, publisher: Publisher, report: HealthReport
) -> Continuity | None:
    """Goes on from what the file holds, and keeps it for the next process."""
    propagator, encoder = pipeline.propagator, publisher.encoder
    if not isinstance(propagator, Continued):
        return None
    if found := checkpoint.found:
        now_ns = time.monotonic_ns()
        count = restore(propagator, found.identities, now_ns)
        encoder.continue_after(found.numbers.seqs, found.numbers.events)
        report.seq = found.numbers.health
        gap_s = (now_ns - found.identities.stamp_ns) / 1e9
        log.info("continuing run %s with %d tracks after %.1f s", found.run, count, gap_s)
    return Continuity(
        checkpoint,
        report.run,
        lambda stamp_ns: remember(propagator, stamp_ns),
        lambda: propagator.life.next_id,
        lambda: Numbers(encoder.seqs, encoder.event_count, report.seq),
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


def identity_of(checked: Checked, info: SourceInfo, run: str = "") -> Identity:
    """The run's name and clock. A drive's run is named after its content, so that two replays say the same.

    Args:
        run: one to go on with.
    """
    is_drive = info.clock == "drive"
    run = replay_run(checked, info.identity) if is_drive else run or str(uuid.uuid4())
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
    tracking = msgspec.structs.replace(launch.tracking, continue_for_s=0.0)  # decides nothing about a drive
    decides = (drive, checked.files.identity, calibration_hash(checked), launch.camera, launch.model.network_every)
    text = msgspec.json.encode((decides, tracking, launch.topics, launch.groups), order="deterministic")
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text.decode()))

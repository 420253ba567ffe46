"""A launch file to a running node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from perception.build.checks import Checked, check_calibration, check_first_frame, check_node
from perception.build.continuity import build_continuity, open_checkpoint
from perception.build.identity import identity_of
from perception.build.logbook import build_logbook
from perception.build.model import build_model, build_pipeline
from perception.build.serving import Ways, build_serving, is_pinned
from perception.clock import boot_id
from perception.config import Launch
from perception.control.answers import Answers
from perception.control.server import ControlServer, open_control
from perception.health import HealthReport, Pulse
from perception.logbook import Logbook
from perception.node import Node
from perception.protocols import Sink, Source
from perception.sinks.messages import Identity
from perception.sinks.publisher import Publisher
from perception.sources.live import LiveSource, LiveTiming
from perception.sources.replay import ReplaySource
from perception.sources.url import open_source
from perception.stopwatch import Stopwatch
from perception.switches import SwitchWatch
from perception.types import Scene
from perception.wire import CONTROL_ENDPOINT


def build_node(
    launch: Launch,
    sinks: Sequence[Sink] = (),
    on_scene: Callable[[Scene], None] | None = None,
    ways: Ways | None = None,
) -> Node:
    """Open everything that a launch file names, the endpoints first: a second node stops before it touches a camera.

    Args:
        ways: how engines are changed, where there is a choice.

    Raises:
        PerceptionError: one line saying what can't be opened and how to mend it.
    """
    checked, stopwatch = check_node(launch), Stopwatch()
    with ExitStack() as opened:
        source = opened.enter_context(closing(build_source(launch)))
        info = source.info()
        check_calibration(checked, info)
        checkpoint = open_checkpoint(checked, info)
        if checkpoint:
            opened.callback(checkpoint.close)
        identity = identity_of(checked, info, checkpoint.found.run if checkpoint and checkpoint.found else "")
        publisher = opened.enter_context(closing(build_publisher(checked, identity, stopwatch)))
        control = build_control(checked)
        if control:
            opened.callback(control.close)
            if isinstance(source, ReplaySource) and not launch.recording:  # a recording of jumps can't be followed
                control.answers.player = source
        # the camera warms up while the network loads; but a recording is told of every frame from the first one on
        frames = None if launch.recording else iter(source)
        model = opened.enter_context(closing(build_model(checked.files, launch, stopwatch)))
        pipeline = build_pipeline(model, checked, stopwatch)
        serving = build_serving(checked, pipeline, ways, is_pinned(launch, info))
        if serving:
            opened.callback(serving.close)
            serving.expect((info.width, info.height))
        report = build_report(checked, identity, model.engine.name, stopwatch)
        report.serving = serving
        continuity = build_continuity(checkpoint, pipeline, publisher, report) if checkpoint else None
        engines = serving.engines if serving else report.engine
        logbook = build_logbook(checked, identity, pipeline, publisher, engines) if launch.recording else None
        if logbook:
            logbook.engine = serving.engine if serving else report.engine
            opened.callback(logbook.close, "the node did not start")
            sinks = (*sinks, *listen(launch, logbook, source, control))
        frames = check_first_frame(checked, info, frames or iter(source))
        node = Node(source, frames, pipeline, publisher, report, sinks, on_scene, control, continuity, logbook, serving)
        opened.pop_all()  # the node closes them from here on
        return node


def build_report(checked: Checked, identity: Identity, engine: str, stopwatch: Stopwatch) -> HealthReport:
    return HealthReport(identity.run, boot_id(), identity.clock, engine, checked.files.name, Pulse(), stopwatch)


def listen(launch: Launch, logbook: Logbook, source: Source, control: ControlServer | None) -> list[Sink]:
    """Let the logbook hear of captured frames, and of what saves its ring; further sinks that this takes."""
    if isinstance(source, LiveSource):
        source.listener = logbook
    config = launch.recording
    if config is None or not config.ring_s:
        return []
    if control and "control" in config.triggers:
        control.answers.save = logbook.ask_save
    return [SwitchWatch(logbook.ask_save)] if "id_switch" in config.triggers else []


def build_source(launch: Launch) -> Source:
    timing = LiveTiming(stall_s=launch.source.stall_s, timeout_s=launch.source.reopen_s)
    return open_source(
        launch.source.url,
        camera=launch.camera,
        realtime=launch.source.realtime,
        loop=launch.source.loop,
        speed=launch.source.speed,
        begin_s=launch.source.begin_s,
        end_s=launch.source.end_s,
        timing=timing,
    )


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
    fallback = f"{endpoints[0]}.control" if is_private else CONTROL_ENDPOINT
    answers = Answers(launch.camera, checked.files.card.class_table().names)
    return open_control(launch.control.endpoint, fallback, answers, checked.curve)

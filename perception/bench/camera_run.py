"""One run of a whole node under a camera of fixed rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field

import msgspec

from perception.bench.camera import camera_source
from perception.bench.figures import Figures
from perception.bench.settings import BenchSettings
from perception.build import (
    build_logbook,
    build_model,
    build_pipeline,
    build_publisher,
    build_report,
    check_launch,
    identity_of,
    listen,
)
from perception.build.serving import build_serving
from perception.config import RecordConfig
from perception.node import Node
from perception.protocols import SourceStatus
from perception.sinks.publisher import Publisher
from perception.stopwatch import Stopwatch
from perception.types import Scene

Pictures = tuple[list[bytes], tuple[int, int]]


@dataclass
class CameraRun:
    """What came of it."""

    frames: int
    seconds: float
    cpu_s: float
    status: SourceStatus
    stopwatch: Stopwatch
    sent_ns: list[int] = field(repr=False)

    def figures(self) -> dict[str, float]:
        status = self.status
        return {
            "fps": self.frames / self.seconds,
            "frames": self.frames,
            "dropped": status.dropped,
            "dropped_percent": 100 * status.dropped / max(1, status.captured),
            "cpu_cores": self.cpu_s / self.seconds,
        }


def run_camera(
    settings: BenchSettings,
    pictures: Pictures,
    figures: Figures,
    record: RecordConfig | None = None,
    on_scene: Callable[[Scene], None] | None = None,
    beside: Callable[[Publisher], AbstractContextManager[None]] | None = None,
) -> CameraRun:
    """The node for `settings.seconds` under a JPEG camera, recording where that is asked for.

    Args:
        on_scene: called when a scene was sent.
        beside: entered before the first frame and left after the last one.
    """
    launch = msgspec.structs.replace(settings.launch(), record=record or False)
    checked, stopwatch = check_launch(launch), Stopwatch(kept=1_000_000)
    frames, size = pictures
    source, sent_ns = camera_source(frames, settings.fps, stopwatch), list[int]()
    identity = identity_of(checked, source.info())
    with ExitStack() as opened:
        model = opened.enter_context(closing(build_model(checked.files, launch, stopwatch)))
        pipeline = build_pipeline(model, checked, stopwatch)
        publisher = opened.enter_context(closing(build_publisher(checked, identity, stopwatch)))
        serving = build_serving(checked, pipeline, is_pinned=True)
        report = build_report(checked, identity, serving.engine if serving else model.engine.name, stopwatch)
        if serving:  # an accelerator is named: it and nothing else is measured
            opened.callback(serving.close)
            serving.expect(size)
            report.engine = serving.engine
        logbook = build_logbook(checked, identity, pipeline, publisher, report.engine) if record else None
        sinks = listen(launch, logbook, source, None) if logbook else ()
        if beside:
            opened.enter_context(beside(publisher))
        end = time.monotonic() + settings.seconds

        def note(scene: Scene) -> None:
            sent_ns.append(time.monotonic_ns())
            if on_scene:
                on_scene(scene)
            if time.monotonic() > end:
                node.stop("time is up")

        node = Node(source, iter(source), pipeline, publisher, report, sinks, note, logbook=logbook, serving=serving)
        opened.callback(node.close)
        cpu_s = time.process_time()
        summary = node.run()
        cpu_s = time.process_time() - cpu_s
    figures.conditions["source"] = f"JPEG camera {size[0]}x{size[1]} at {settings.fps:g} fps"
    figures.conditions["network"] = f"{checked.files.name} on {report.engine}"
    return CameraRun(summary.frames, summary.seconds, cpu_s, source.status(), stopwatch, sent_ns)

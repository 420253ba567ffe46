"""The loop: frames from the source through the pipeline to the sinks, with a heartbeat beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception.continuity import Continuity
from perception.control.server import ControlServer
from perception.errors import NodeFailure, PerceptionError
from perception.health import HealthReport, Published, Pulse
from perception.logbook import Logbook
from perception.pipeline import Pipeline
from perception.protocols import Sink, Source
from perception.sinks.publisher import Publisher
from perception.stopwatch import Stopwatch
from perception.supervision import notify
from perception.types import Frame, Scene

if TYPE_CHECKING:
    from perception.serving.serving import Serving

log = logging.getLogger(__name__)

SERVICE_S = 0.02  # how soon a late joiner gets the last masks
BEAT_S = 0.1  # health ten times a second
HUNG_S = 1.0  # the watchdog is not fed while a frame has been in the pipeline for longer
GIVE_UP_S = 5.0  # of nothing but failures: then the process ends and its supervisor starts it anew


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did."""

    frames: int
    failed: int
    seconds: float
    reason: str


class Node:
    """One camera's node. `run` blocks until the source ends or `stop` is called.

    Args:
        source: where the frames come from; says how it is, and can be closed.
        frames: its iteration, begun.
        pipeline: frame to scene.
        publisher: where the masks go; also owns the health topic.
        report: makes the health messages, shares `pulse` with this loop.
        sinks: further takers of every scene (recorder, overlay).
        on_scene: called after each scene, for a progress display.
        control: takes prompts, which are answered between two frames.
        continuity: keeps what the next process needs to go on with this run.
        logbook: keeps what is decided about every frame, for a recording; closed with the node.
        serving: where there is a choice of engines: which one serves; changes between two frames.
    """

    def __init__(
        self,
        source: Source,
        frames: Iterator[Frame],
        pipeline: Pipeline,
        publisher: Publisher,
        report: HealthReport,
        sinks: Sequence[Sink] = (),
        on_scene: Callable[[Scene], None] | None = None,
        control: ControlServer | None = None,
        continuity: Continuity | None = None,
        logbook: Logbook | None = None,
        serving: Serving | None = None,
    ) -> None:
        self.serving = serving
        self.continuity, self.logbook = continuity, logbook
        self.source, self.pipeline, self.publisher, self.control = source, pipeline, publisher, control
        self._frames = frames
        self.report, self.sinks, self._on_scene = report, sinks, on_scene
        self.pulse: Pulse = report.pulse
        self._time: Stopwatch = pipeline.stopwatch
        self._failing_since: float | None = None
        self._failed = 0
        self._ended = threading.Event()
        self._is_drive = source.info().clock == "drive"

    def run(self) -> Summary:
        """Raises PerceptionError when the source ends in an error, NodeFailure after five seconds of failed frames."""
        start = time.monotonic()
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        if self.serving:
            self.serving.begin()
        try:
            for frame in self._frames:
                self._take(frame)
        except PerceptionError as error:
            self.pulse.stopping = self.pulse.stopping or str(error)
            raise
        finally:
            self.pulse.stopping = self.pulse.stopping or "the source ended"
            self._ended.set()
            beat.join()
        return Summary(self.pulse.frames, self._failed, time.monotonic() - start, self.pulse.stopping)

    def stop(self, reason: str) -> None:
        """End the run after the frame in work; callable from a signal handler."""
        self.pulse.stopping = reason
        self.source.close()

    def close(self) -> None:
        """Say goodbye on the health topic and let everything go. Twice is fine."""
        self.source.close()
        notify("STOPPING=1")
        if self.control:
            self.control.close()
        self.publisher.close()
        if self.continuity:
            self.continuity.close()
        if self.logbook:
            self.logbook.close(self.pulse.stopping or "the node ended")
        for sink in self.sinks:
            sink.close()
        if self.serving:
            self.serving.close()
        self.pipeline.close()

    def _take(self, frame: Frame) -> None:
        taken_ns = time.monotonic_ns()
        captured_ns = taken_ns if self._is_drive else frame.stamp_ns
        self.pulse.took(frame.seq, captured_ns, taken_ns - frame.stamp_ns if self._is_drive else None)
        if self.logbook and self._is_drive:  # a live source tells it of every capture itself
            frame = self.logbook.captured(frame, taken_ns)
        try:
            scene = self._scene(frame)
        except PerceptionError as error:
            self._fail(frame, taken_ns, str(error))
            return
        self._failing_since, done_ns = None, time.monotonic_ns()
        self._send(frame, scene)
        self._time.add("capture to sent", (time.monotonic_ns() - captured_ns) / 1e6)
        self.pulse.sent()
        if self.logbook:
            self.logbook.stepped(frame, taken_ns, done_ns, self.publisher.prompted_wanted)
        self._settle(frame, scene)

    def _scene(self, frame: Frame) -> Scene:
        """Raises PerceptionError."""
        if self.serving is None:
            return self.pipeline.step(frame)
        self.serving.settle()
        scene = self.serving.mark(self.pipeline.step(frame))
        if self.logbook:
            self.logbook.engine = self.serving.engine
        return scene

    def _send(self, frame: Frame, scene: Scene) -> None:
        if self.continuity:
            self.continuity.note(scene)
        for sink in (self.publisher, *self.sinks):
            sink.send(frame, scene)

    def _settle(self, frame: Frame, scene: Scene) -> None:
        """What is done between two frames."""
        if self.pulse.frames == 1:
            notify("READY=1")
        if self._on_scene:
            self._on_scene(scene)
        answered = self.control.serve(self.pipeline.propagator, frame, scene) if self.control else None
        if self.continuity and answered and answered[1].track_id is not None:
            self.continuity.save()  # a track that was removed must not come back after a kill
        if self.logbook:
            self.logbook.called(frame, answered)
            self.logbook.settle(frame)

    def _fail(self, frame: Frame, taken_ns: int, reason: str) -> None:
        """One frame lost is said and survived; seconds of nothing but failures end the process."""
        if self.logbook:
            self.logbook.failed(frame, taken_ns, reason)
        self.pulse.failed(reason)
        self._failed += 1
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            log.warning("frame %d failed: %s", frame.seq, reason)
        elif now - self._failing_since > GIVE_UP_S:
            raise NodeFailure(f"every frame has failed for {GIVE_UP_S:.0f} s: {reason}")

    def _beat(self) -> None:
        next_beat = time.monotonic()
        while not self._ended.wait(SERVICE_S):
            self.publisher.service()
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_S
                self._say()
                if self.pulse.frames and self.pulse.busy_s() < HUNG_S:
                    notify("WATCHDOG=1")
        self._say()

    def _say(self) -> None:
        stats = self.publisher.stats()
        published = Published(stats.published, stats.validity, stats.subscribers, stats.rejected, stats.send_failures)
        health = self.report.make(self.source.status(), published)
        self.publisher.send_health(health)
        if self.logbook:
            self.logbook.beat(health)

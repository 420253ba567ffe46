"""How the node is: a pure function of what its parts say of themselves."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception.protocols import SourceStatus
from perception.stopwatch import Stopwatch, percentile
from perception.wire import Health, SourceRow, StageRow

if TYPE_CHECKING:
    from perception.serving.serving import Serving

log = logging.getLogger(__name__)

STUCK_S = 0.2  # a step that takes longer than a few frame periods is said on the health topic
WALL_JUMP_S = 0.5  # a larger step of the wall clock is logged
RATE_OVER = 60  # frames over which the rate is taken
NEW_RUN_BEATS = 300  # messages, half a minute, that tell why a run does not go on from the one before


@dataclass(frozen=True, slots=True)
class Published:
    """What the publisher has done, as health tells it."""

    messages: Mapping[str, int]
    validity: Mapping[str, str]
    subscribers: int
    rejected: int
    send_failures: int


class Pulse:
    """What the loop is doing right now; written by the loop, read by the heartbeat."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.frames = 0
        self.last_seq = 0
        self.failures_in_a_row = 0
        self.failure = ""
        self.drive_offset_ns: int | None = None
        self.stopping = ""
        self._taken_ns: int | None = None  # monotonic; the frame in the pipeline now
        self._captured_ns: int | None = None  # monotonic; when the last published frame was captured
        self._sent_ns: deque[int] = deque(maxlen=RATE_OVER)

    def took(self, seq: int, captured_ns: int, drive_offset_ns: int | None) -> None:
        with self._lock:
            self._taken_ns, self.last_seq = time.monotonic_ns(), seq
            self._captured_ns, self.drive_offset_ns = captured_ns, drive_offset_ns

    def sent(self) -> None:
        with self._lock:
            self._taken_ns = None
            self.frames += 1
            self.failures_in_a_row, self.failure = 0, ""
            self._sent_ns.append(time.monotonic_ns())

    def failed(self, reason: str) -> None:
        with self._lock:
            self._taken_ns = None
            self.failures_in_a_row += 1
            self.failure = reason

    def busy_s(self) -> float:
        """How long the frame in the pipeline has been there [s]; 0 between frames."""
        with self._lock:
            return (time.monotonic_ns() - self._taken_ns) / 1e9 if self._taken_ns else 0.0

    def age_ms(self) -> float | None:
        """Age of the last frame taken, from its capture [ms]."""
        with self._lock:
            return (time.monotonic_ns() - self._captured_ns) / 1e6 if self._captured_ns else None

    def rate_hz(self) -> float:
        """Scenes sent a second, over the last ones; falls to 0 while nothing comes."""
        with self._lock:
            if len(self._sent_ns) < 2:
                return 0.0
            span = time.monotonic_ns() - self._sent_ns[0]
            return (len(self._sent_ns) - 1) * 1e9 / max(1, span)


def state_of(pulse: Pulse, source: SourceStatus, fallen: str = "") -> tuple[str, str]:
    """The node's state in one word, and why.

    Args:
        fallen: why a worse engine serves than should.
    """
    if pulse.stopping:
        return "stopping", pulse.stopping
    busy = pulse.busy_s()
    if source.state in ("stalled", "reopening"):
        return "no_input", source.reason or "the source gives no frames"
    if pulse.failures_in_a_row:
        return "failed", f"{pulse.failures_in_a_row} frames in a row failed: {pulse.failure}"
    if not pulse.frames and busy < 1.0:
        return "starting", source.reason
    if busy > STUCK_S:
        return "degraded", f"one frame has been in the pipeline for {busy:.1f} s"
    return ("degraded", fallen) if fallen else ("running", "")


def stage_rows(stopwatch: Stopwatch) -> dict[str, StageRow]:
    """p50 and p99 of each stage over the last frames."""
    rows = {}
    for stage, times in stopwatch.stages().items():
        rows[stage] = StageRow(round(percentile(times, 50), 3), round(percentile(times, 99), 3))
    return rows


def source_row(status: SourceStatus) -> SourceRow:
    return SourceRow(status.state, status.reason, status.captured, status.dropped, status.broken, status.reopened)


@dataclass
class HealthReport:
    """Makes the health message of one run."""

    run: str
    boot_id: str
    clock: str
    engine: str
    model: str
    pulse: Pulse
    stopwatch: Stopwatch
    serving: Serving | None = None  # where there is a choice of engines
    seq: int = 0  # of the last message
    refused: str = ""  # why this run does not go on from the one before, where there was one
    _wall_offset_ns: int = 0

    def make(self, source: SourceStatus, published: Published) -> Health:
        serving = self.serving
        state, reason = state_of(self.pulse, source, serving.fallen if serving else "")
        now = time.monotonic_ns()
        age = self.pulse.age_ms()
        self.seq += 1
        if self.refused and not reason and self.seq <= NEW_RUN_BEATS:
            reason = f"a new run, with new ids: the one before is not continued: {self.refused}"
        self._note_wall_clock(time.time_ns() - now)
        return Health(
            run=self.run,
            seq=self.seq,
            monotonic_ns=now,
            boot_id=self.boot_id,
            clock=self.clock,
            wall_offset_ns=self._wall_offset_ns,
            drive_offset_ns=self.pulse.drive_offset_ns,
            state=state,
            reason=reason,
            source=source_row(source),
            rate_hz=round(self.pulse.rate_hz(), 2),
            last_frame_seq=self.pulse.last_seq,
            last_frame_age_ms=None if age is None else round(age, 1),
            published=dict(published.messages),
            validity=dict(published.validity),
            engine=serving.engine if serving else self.engine,
            model=self.model,
            stages=stage_rows(self.stopwatch),
            subscribers=published.subscribers,
            rejected=published.rejected,
            send_failures=published.send_failures,
            engine_reason=serving.reason if serving else "",
            engines=serving.rows() if serving else (),
        )

    def _note_wall_clock(self, offset_ns: int) -> None:
        """Ages and rates never use the wall clock; who reads our log should know that it jumped all the same."""
        jump_s = (offset_ns - self._wall_offset_ns) / 1e9
        if self._wall_offset_ns and abs(jump_s) > WALL_JUMP_S:
            log.warning("the wall clock was set by %+.1f s", jump_s)
        self._wall_offset_ns = offset_ns

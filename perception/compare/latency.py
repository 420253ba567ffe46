"""How long frames took from capture to sent, by the recorded decisions."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from perception.compare.pairing import DRIVE_CLOCK
from perception.compare.series import Series, quantiles
from perception.drives.layout import About, Decision
from perception.wire import Health, StageRow

TOTAL = "capture to sent"
STAGES = ("capture to arrival", "waiting", "network and propagator", "encoding and sending")
"""Between a decision's stamp, arrived, taken, done and sent."""
TIMED_MODES = ("live", "what-if")
"""Of recordings whose times mean something: a replay goes as fast as it can, or follows a recorded clock."""
_MS = 1e-6


@dataclass(slots=True)
class Latencies:
    """Of one recording. The first of STAGES counts only where stamps and times are of one clock."""

    has_capture_clock: bool
    values: dict[str, array] = field(default_factory=lambda: {name: array("f") for name in (TOTAL, *STAGES)})  # [ms]
    by_frame: Series = field(default_factory=Series)  # of the matched frames: TOTAL [ms]
    decided: Counter[str] = field(default_factory=Counter)  # frames by Decision.what
    looks: int = 0  # of the network

    def add(self, decision: Decision, frame: int | None = None) -> None:
        """Count one captured frame; `frame` is its number among the matched ones."""
        self.decided[decision.what] += 1
        self.looks += decision.network
        if decision.what != "stepped" or not decision.sent_ns:
            return
        d = decision
        times = (d.stamp_ns, d.arrived_ns or d.taken_ns, d.taken_ns, d.done_ns, d.sent_ns)
        begin = 0 if self.has_capture_clock else 1
        total = (times[-1] - times[begin]) * _MS
        self.values[TOTAL].append(total)
        for k, name in enumerate(STAGES):
            if k >= begin:
                self.values[name].append((times[k + 1] - times[k]) * _MS)
        if frame is not None:
            self.by_frame.put(frame, total)

    def quantiles(self) -> dict[str, tuple[float, float, float]]:
        """p50, p90 and p99 [ms] of TOTAL and of each stage that was timed."""
        return {name: quantiles(values) for name, values in self.values.items() if len(values)}


def latencies(a: About, b: About) -> tuple[Latencies, Latencies]:
    """Empty ones; from capture on where both recordings have a camera's clock, else both from the arrival on."""
    has_capture_clock = DRIVE_CLOCK not in (a.clock, b.clock)
    return Latencies(has_capture_clock), Latencies(has_capture_clock)


def why_untimed(a: About, b: About) -> str:
    """Empty where latencies of the two can be judged against each other; else why they can't."""
    for label, about in (("A", a), ("B", b)):
        if about.mode not in TIMED_MODES:
            return f"{label} is an {about.mode} replay: its times are those of the replay, not of a drive"
    return ""


def stage_medians(health: list[Health]) -> dict[str, StageRow]:
    """What health said of each stage, the median over its messages [ms]."""
    names = dict.fromkeys(name for row in health for name in row.stages)
    rows = {name: [row.stages[name] for row in health if name in row.stages] for name in names}
    return {n: StageRow(median(r.p50_ms for r in told), median(r.p99_ms for r in told)) for n, told in rows.items()}

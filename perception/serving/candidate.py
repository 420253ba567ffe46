"""An engine on its way up the ladder."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception.serving.backoff import Backoff
from perception.serving.report import Report
from perception.serving.rungs import Rung, Standing


@dataclass(eq=False)
class Candidate:
    """One rung on its way up, as health tells it."""

    rung: Rung
    backoff: Backoff
    is_wanted: bool = False  # by name: then its absence is a fall
    state: str = "waiting"  # waiting | building | opening | testing | ready | serving | failed | refused
    reason: str = ""
    what: str = ""  # of the build
    done: int = 0
    of: int = 0
    step_ms: float = 0.0
    demotions: int = 0
    missed: str = ""  # what messages say of its fall, until it or a better one serves
    failures: int = 0  # to build or load it, in a row
    strikes: dict[str, int] = field(default_factory=dict)  # by kind of call, in a row
    standing: Standing | None = None
    report: Report | None = None  # the gate's last one

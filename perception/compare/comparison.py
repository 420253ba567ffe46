"""The whole comparison of two recordings, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from perception.compare.checks import checks
from perception.compare.findings import Check, Finding
from perception.compare.identity import Identities
from perception.compare.latency import why_untimed
from perception.compare.measures import Measures, Progress, measure
from perception.compare.pairing import Matching, matching
from perception.compare.pictures import Picture, choose_frames, draw_frames
from perception.compare.plots import Plot
from perception.compare.side import LIVE, Incomparable, Side, open_side
from perception.compare.summary import ClassRow, LatencyRow, TopicRow, class_rows, latency_rows, plots_of, topic_rows
from perception.compare.tolerance import Tolerance, choose
from perception.drives.layout import About
from perception.drives.recording import Recording, open_recording
from perception.errors import RecordingError

FORMAT = 1
"""Of the JSON."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare.

    Attributes:
        level: auto | bytes | tight | statistical.
        tolerance: TOML file with other thresholds.
        latency_ms: how much later p50 and p99 may be; None: as the level or the file says.
        match: auto | stamp | frame.
        pictures: most frames that are drawn.
        frames: a recording of the same frames that has the camera's images, where neither A nor B has.
    """

    level: str = "auto"
    tolerance: Path | None = None
    latency_ms: float | None = None
    match: str = "auto"
    pictures: int = 0
    frames: Path | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A reference A and a candidate B: what was checked, what was found, and the figures behind it."""

    reference: Path
    candidate: Path
    about: tuple[About, About]
    matching: Matching
    tolerance: Tolerance
    why: str  # this level
    frames: int  # matched
    seconds: float  # from the first of them to the last
    unmatched: tuple[int, int]  # frames that A (B) alone publishes
    decided: tuple[dict[str, int], dict[str, int]]  # captured frames by what became of them
    things: dict[str, int]
    checks: tuple[Check, ...]
    classes: tuple[ClassRow, ...]
    topics: tuple[TopicRow, ...]
    latency: tuple[LatencyRow, ...]
    digests: tuple[str, str]
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    pictures: tuple[Picture, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, the most telling kinds first."""
        return tuple(finding for check in self.checks for finding in check.findings)

    @property
    def is_same(self) -> bool:
        """Within the tolerance."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps; figures that there are not are None."""
        told = {
            "format": FORMAT,
            "same": self.is_same,
            "reference": str(self.reference),
            "candidate": str(self.candidate),
            "camera": self.about[0].camera,
            "matching": asdict(self.matching),
            "tolerance": msgspec.to_builtins(self.tolerance) | {"why": self.why},
            "frames": {"matched": self.frames, "only_a": self.unmatched[0], "only_b": self.unmatched[1]},
            "seconds": self.seconds,
            "findings": [_finding(finding) for finding in self.findings],
            "checks": [
                {"kind": c.kind, "subject": c.subject, "passed": c.is_passed, "skipped": c.skipped} for c in self.checks
            ],
            "classes": [asdict(row) for row in self.classes],
            "topics": [asdict(row) for row in self.topics],
            "things": self.things,
            "latency": [asdict(row) for row in self.latency],
            "decided": {"a": self.decided[0], "b": self.decided[1]},
            "digest": {"a": self.digests[0], "b": self.digests[1], "equal": self.digests[0] == self.digests[1]},
            "notes": list(self.notes),
            "worst_frames": [{"seq": p.seq, "seconds": p.seconds, "note": p.note} for p in self.pictures],
        }
        return _plain(told)


def compare(
    reference: Path, candidate: Path, options: Options | None = None, progress: Progress | None = None
) -> Comparison:
    """Hold a candidate's recording against a reference's, frame by frame, in bounded memory.

    Raises:
        ConfigError: an option or the tolerance file says what it may not say.
        Incomparable: a recording is damaged or foreign, or the two are not of the same things.
    """
    wishes = options or Options()
    a, b = open_side(reference, "A"), open_side(candidate, "B")
    tolerance, why = choose(a.about, b.about, wishes.level, wishes.tolerance)
    if wishes.latency_ms is not None:
        both = {"latency_p50_ms": wishes.latency_ms, "latency_p99_ms": wishes.latency_ms}
        tolerance = msgspec.structs.replace(tolerance, **both)
    measures = measure(a, b, matching(a.about, b.about, wishes.match), progress)
    found = checks(measures, tolerance, why_untimed(a.about, b.about))
    findings = [finding for check in found for finding in check.findings]
    chosen = choose_frames(measures, findings, wishes.pictures)
    pictures = draw_frames(a, b, measures, chosen, _drive(wishes.frames)) if chosen else ()
    return _summed(a, b, measures, tolerance, why, found, pictures)


def _summed(
    a: Side,
    b: Side,
    m: Measures,
    tolerance: Tolerance,
    why: str,
    found: tuple[Check, ...],
    pictures: Sequence[Picture],
) -> Comparison:
    return Comparison(
        reference=a.path,
        candidate=b.path,
        about=(a.about, b.about),
        matching=m.matching,
        tolerance=tolerance,
        why=why,
        frames=len(m.frames),
        seconds=float(m.seconds()[-1]),
        unmatched=(m.unmatched[0], m.unmatched[1]),
        decided=(dict(m.timing[0].decided), dict(m.timing[1].decided)),
        things=_things(m.identities),
        checks=found,
        classes=class_rows(m),
        topics=topic_rows(a, b, m),
        latency=latency_rows(a, b, m),
        digests=(a.digest.hex(), b.digest.hex()),
        notes=_notes(a, b, m),
        plots=plots_of(m),
        pictures=tuple(pictures),
    )


def _things(ids: Identities) -> dict[str, int]:
    """Counted by frame."""
    alone = [sum(len(stay.frames) for stay in ids.stayed(side, 0)) for side in (0, 1)]
    counts = {"a": ids.things[0], "b": ids.things[1], "vanished": alone[0], "appeared": alone[1]}
    return counts | {"id_switches": ids.switch_count}


def _notes(a: Side, b: Side, m: Measures) -> tuple[str, ...]:
    notes = [
        f"{side.label} was not closed in order: what it holds is compared"
        for side in (a, b)
        if side.about.mode == LIVE and not side.recording.is_finished
    ]
    if more := sorted(m.only_topics[1]):
        notes.append(f"topics that only B has, not compared: {', '.join(more)}")
    return tuple(notes)


def _drive(path: Path | None) -> Recording | None:
    if path is None:
        return None
    try:
        return open_recording(path)
    except RecordingError as error:
        raise Incomparable(f"--frames: {error}") from None


def _finding(finding: Finding) -> dict[str, Any]:
    told = asdict(finding)
    told.pop("worst")
    return told


def _plain(value: Any) -> Any:
    """NaN is no JSON."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value

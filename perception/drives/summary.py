"""What a recording holds, in short: what `perception drive info` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import msgspec

from perception.drives import layout
from perception.drives.cut import CUT, Cut
from perception.drives.layout import About, Decision, Record, from_metadata
from perception.drives.recording import Recording
from perception.drives.recover import Recovery, recovery_of
from perception.errors import RecordingError, WireError
from perception.wire import decode

Progress = Callable[[str, int, int], None]  # what, messages done, of how many
GAP_PERIODS = 3.0
"""Frames farther apart than so many periods have a gap between them."""
_EVERY = 200


@dataclass(slots=True)
class ChannelSummary:
    """One topic. Expected and written are the certificate's, None without one."""

    topic: str
    schema: str
    encoding: str
    messages: int
    rate_hz: float
    bytes: int | None = None  # None where the messages were not read
    expected: int | None = None
    written: int | None = None


@dataclass(slots=True)
class Gap:
    """Time without a captured frame."""

    at_s: float  # after the first message
    seconds: float


@dataclass(slots=True)
class FrameSummary:
    """What became of the captured frames."""

    captured: int = 0
    stepped: int = 0
    failed: int = 0
    dropped: int = 0
    broken: int = 0
    reasons: dict[str, int] = field(default_factory=dict)  # why frames were not stepped
    network_share: float = 0.0  # of the stepped frames, [0, 1]
    engines: dict[str, int] = field(default_factory=dict)
    period_ms: float = 0.0  # between captured frames, the median
    gaps: list[Gap] = field(default_factory=list)


@dataclass(slots=True)
class RecordingSummary:
    """All of it, ready to be JSON."""

    path: str
    segments: int
    bytes: int
    begin_ns: int
    end_ns: int
    seconds: float
    is_finished: bool
    is_read: bool  # the messages were read; else only what the files' own indexes say is here
    about: About | None
    channels: list[ChannelSummary]
    is_complete: bool | None = None  # by the certificate and what is there; None without a certificate
    why_ended: str = ""
    lost: dict[str, int] = field(default_factory=dict)
    frames: FrameSummary | None = None
    events: dict[str, int] = field(default_factory=dict)  # changes of tracks, by state
    states: int = 0
    control_calls: int = 0
    damage: list[str] = field(default_factory=list)
    recovered: Recovery | None = None
    cut: Cut | None = None


def summarise(recording: Recording, *, quick: bool = False, progress: Progress | None = None) -> RecordingSummary:
    """Read a recording, opened lenient, and say what it holds; `quick` reads only its indexes, in milliseconds."""
    seconds = (recording.end_ns - recording.begin_ns) / 1e9
    certificate, about = recording.certificate, recording.about
    tallies = certificate.channels if certificate else {}
    channels = [
        ChannelSummary(c.topic, c.schema, c.encoding, c.count or 0, _rate(c.count or 0, seconds))
        for c in sorted(recording.channels.values(), key=lambda c: c.topic)
    ]
    for topic in sorted(tallies.keys() - recording.channels.keys()):
        channels.append(ChannelSummary(topic, "", "", 0, 0.0))
    for channel in channels:
        if tally := tallies.get(channel.topic):
            channel.expected, channel.written = tally.expected, tally.written
    size = sum(file.size for file in recording.files)
    found = RecordingSummary(
        str(recording.path), len(recording.segments), size, recording.begin_ns, recording.end_ns, seconds,
        recording.is_finished, not quick, about, channels,
    )  # fmt: skip
    if not quick:
        _Reading(recording, found).run(progress)
    if certificate:
        found.why_ended, found.lost = certificate.reason, dict(certificate.lost)
        is_cut_off = about is not None and about.segment > 0  # the disk guard deleted the first segments
        is_here = is_cut_off or all(c.written is None or c.messages == c.written for c in channels)
        found.is_complete = certificate.is_complete and is_here
    if about:
        states, calls = layout.state(about.camera), layout.control(about.camera)
        found.states, found.control_calls = _count(recording, states), _count(recording, calls)
    found.damage = [str(damage) for damage in recording.damage]
    found.recovered, found.cut = recovery_of(recording), _cut_of(recording)
    return found


def _count(recording: Recording, topic: str) -> int:
    return (recording.channels[topic].count or 0) if topic in recording.channels else 0


def _rate(count: int, seconds: float) -> float:
    return (count - 1) / seconds if seconds > 0 and count > 1 else 0.0


def _cut_of(recording: Recording) -> Cut | None:
    texts = recording.metadata.get(CUT)
    return from_metadata(texts, Cut) if texts else None


class _Reading:
    """Goes through the messages once."""

    def __init__(self, recording: Recording, found: RecordingSummary) -> None:
        self.recording, self.found = recording, found
        camera = recording.about.camera if recording.about else ""
        self.decisions = layout.decisions(camera) if camera else ""
        self.tracks = layout.wire(f"{camera}/tracks") if camera else ""
        self.sizes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.whats: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.engines: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.stamps: list[int] = []
        self.looked = 0

    def run(self, progress: Progress | None) -> None:
        total = sum(channel.messages for channel in self.found.channels)
        for n, record in enumerate(self.recording.messages()):
            self.see(record)
            if progress and n % _EVERY == 0:
                progress("read", n, total)
        if progress:
            progress("read", total, total)
        for channel in self.found.channels:
            channel.bytes, channel.messages = self.sizes[channel.topic], self.counts[channel.topic]
        self.found.events = dict(self.events)
        if self.stamps:
            self.found.frames = self._frames()

    def see(self, record: Record) -> None:
        self.sizes[record.topic] += len(record.data)
        self.counts[record.topic] += 1
        if record.topic == self.decisions:
            self._decided(record)
        elif record.topic == self.tracks:
            try:
                self.events.update(event.state for event in decode(record.data).header.events)
            except WireError:
                self.events["unreadable"] += 1

    def _decided(self, record: Record) -> None:
        try:
            decision = msgspec.json.decode(record.data, type=Decision)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RecordingError(f"{self.recording.path}: a decision can't be read: {error}") from None
        self.stamps.append(decision.stamp_ns)
        self.whats[decision.what] += 1
        if decision.what != "stepped":
            self.reasons[f"{decision.what}: {decision.reason}" if decision.reason else decision.what] += 1
        else:
            self.looked += decision.network
            self.engines[decision.engine] += 1

    def _frames(self) -> FrameSummary:
        stamps = sorted(self.stamps)
        steps = [b - a for a, b in pairwise(stamps)]
        period = median(steps) if steps else 0
        begin = self.recording.begin_ns - (self.recording.about.wall_offset_ns if self.recording.about else 0)
        gaps = [
            Gap((at - begin) / 1e9, step / 1e9)
            for at, step in zip(stamps, steps, strict=False)
            if period and step > GAP_PERIODS * period
        ]
        whats = {what: self.whats[what] for what in ("stepped", "failed", "dropped", "broken")}
        share = self.looked / whats["stepped"] if whats["stepped"] else 0.0
        reasons, engines = dict(self.reasons.most_common()), dict(self.engines.most_common())
        return FrameSummary(len(stamps), **whats, reasons=reasons, network_share=share, engines=engines,
                            period_ms=period / 1e6, gaps=gaps)  # fmt: skip


def json_of(summary: RecordingSummary) -> str:
    return msgspec.json.format(msgspec.json.encode(summary), indent=2).decode()

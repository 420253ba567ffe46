"""All that is measured between two recordings, gathered frame by frame in one pass."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.compare.areas import TopicAreas
from perception.compare.exactness import TopicBytes
from perception.compare.identity import Identities
from perception.compare.latency import Latencies, latencies
from perception.compare.pairing import Matching, paired
from perception.compare.series import Series
from perception.compare.side import Incomparable, Published, Side, check_comparable
from perception.compare.things import match, match_same, things_of
from perception.drives.layout import Decision
from perception.errors import WireError
from perception.wire import Kind, Message
from perception.wire.pixels import MASKS

MOST_LISTED = 100_000
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Frames:
    """Places of the matched frames, and what makes some of them worse than others."""

    seqs: array = field(default_factory=lambda: array("q"))  # of A
    stamps_ns: array = field(default_factory=lambda: array("q"))  # of A
    b_stamps_ns: array = field(default_factory=lambda: array("q"))
    differing: array = field(default_factory=lambda: array("I"))  # pixels, in all mask topics together
    alone: array = field(default_factory=lambda: array("H"))  # things that only one of the two shows
    changed: array = field(default_factory=lambda: array("H"))  # things of another id or class

    def __len__(self) -> int:
        return len(self.seqs)


@dataclass(slots=True)
class Measures:
    """Of A, the reference, against B, the candidate. "Frame" is a number into `frames` wherever frames are listed."""

    matching: Matching
    topics: frozenset[str]  # that both have
    only_topics: tuple[frozenset[str], frozenset[str]]
    timing: tuple[Latencies, Latencies]
    frames: Frames = field(default_factory=Frames)
    missing: list[tuple[int, int, str]] = field(default_factory=list)  # seq, stamp, why B has none
    added: list[tuple[int, int, str]] = field(default_factory=list)
    unmatched: list[int] = field(default_factory=lambda: [0, 0])  # frames that A (B) alone has
    areas: dict[str, TopicAreas] = field(default_factory=dict)
    bytes: dict[str, TopicBytes] = field(default_factory=dict)
    identities: Identities = field(default_factory=Identities)
    validity: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # (A's, B's) -> frames
    things: tuple[Series, Series] = field(default_factory=lambda: (Series(), Series()))

    def add(self, a: Published | None, b: Published | None) -> None:
        """Count one captured frame. Raises WireError and Incomparable."""
        sent_a, sent_b = bool(a and a.sent), bool(b and b.sent)
        frame = len(self.frames) if sent_a and sent_b else None
        for told, timing in zip((a, b), self.timing, strict=True):
            if told and told.decision:
                timing.add(told.decision, frame)
        if a and b and frame is not None:
            self._compare(frame, a, b)
        elif a and sent_a:
            self._note_unmatched(0, self.missing, a, b)
        elif b and sent_b:
            self._note_unmatched(1, self.added, b, a)

    def add_late(self, side: int, decisions: list[Decision]) -> None:
        """Count decisions of A (0) or B (1) that came after all frames."""
        why = {}
        for decision in decisions:
            self.timing[side].add(decision)
            why[self.matching.key(decision.frame_seq, decision.stamp_ns)] = _why(decision)
        rows = self.missing if side else self.added
        rows[:] = [(seq, stamp, told or why.get(self.matching.key(seq, stamp), "")) for seq, stamp, told in rows]

    def seconds(self) -> NDArray[np.float64]:
        """Time of each matched frame since the first of them [s]."""
        stamps = np.array(self.frames.stamps_ns, np.int64)
        return ((stamps - stamps[:1]) * 1e-9).astype(np.float64)

    def _compare(self, frame: int, a: Published, b: Published) -> None:
        self.frames.seqs.append(a.frame_seq)
        self.frames.stamps_ns.append(a.stamp_ns)
        self.frames.b_stamps_ns.append(b.stamp_ns)
        differing, is_same = 0, True
        for name in sorted(self.topics):
            one, other = a.sent.get(name), b.sent.get(name)
            is_same &= self.bytes.setdefault(name, TopicBytes()).add(frame, one, other)
            if one and other and one[1].kind in MASKS:
                differing += self._compare_masks(frame, name, one[1], other[1])
        said = [{name: frame.sent[name][1] for name in frame.sent if name in self.topics} for frame in (a, b)]
        met = match_same(said[0], self.topics) if is_same else match(*(things_of(m, self.topics) for m in said))
        alone, changed = self.identities.add(frame, met)
        self.things[0].put(frame, len(met.a.rows))
        self.things[1].put(frame, len(met.b.rows))
        self.frames.differing.append(min(differing, 2**32 - 1))
        self.frames.alone.append(min(alone, 2**16 - 1))
        self.frames.changed.append(min(changed, 2**16 - 1))
        self._note_validity(frame, *said)

    def _compare_masks(self, frame: int, name: str, a: Message, b: Message) -> int:
        if a.kind is not b.kind:
            kinds = [Kind(m.kind).name.lower() for m in (a, b)]
            raise Incomparable(f"topic {name} is {kinds[0]} in A and {kinds[1]} in B: replay with the same topics")
        return self.areas.setdefault(name, TopicAreas(name)).add(frame, a, b)

    def _note_validity(self, frame: int, a: dict[str, Message], b: dict[str, Message]) -> None:
        for name in sorted(a.keys() & b.keys()):
            words = (a[name].header.validity, b[name].header.validity)
            if words[0] != words[1]:
                self.validity.setdefault(words, []).append(frame)
                return

    def _note_unmatched(
        self, side: int, rows: list[tuple[int, int, str]], told: Published, other: Published | None
    ) -> None:
        self.unmatched[side] += 1
        why = _why(other.decision) if other and other.decision else ""
        if len(rows) < MOST_LISTED:
            rows.append((told.frame_seq, told.stamp_ns, why))


def _why(decision: Decision) -> str:
    return f"{decision.what}: {decision.reason}" if decision.reason else decision.what


def measure(a: Side, b: Side, matching: Matching, progress: Progress | None = None) -> Measures:
    """One pass over both. Raises Incomparable, in one line, for all that can be wrong with them."""
    topics = check_comparable(a, b)
    only = (a.topics - topics, b.topics - topics)
    measures = Measures(matching, topics, only, latencies(a.about, b.about))
    for one, other in _counted(a, b, matching, progress):
        try:
            measures.add(one, other)
        except WireError as error:
            seq = (one or other).frame_seq  # type: ignore[union-attr]
            raise Incomparable(f"frame {seq} of {a.path} or {b.path} is damaged: {error}") from None
    for k, side in enumerate((a, b)):
        measures.add_late(k, side.late)
    if not len(measures.frames):
        counts = f"A publishes {measures.unmatched[0]} frames, B {measures.unmatched[1]}"
        how = f"matched by {matching.by} ({matching.why})"
        raise Incomparable(f"no frame in common, {how}: {counts}: give a drive and its own result, or try --match")
    return measures


def _counted(
    a: Side, b: Side, matching: Matching, progress: Progress | None
) -> Iterator[tuple[Published | None, Published | None]]:
    expected = max((channel.count or 0 for channel in a.recording.channels.values()), default=0)
    done = 0
    for done, pair in enumerate(paired(a, b, matching.key), start=1):
        yield pair
        if progress and done % 16 == 0:
            progress("compare", done, max(expected, done))
    if progress:
        progress("compare", done, done)

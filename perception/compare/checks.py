"""Measures against a tolerance: which checks there are, and what they find. Maps, frames and bytes; things and times
are in thing_checks.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perception.compare.areas import ClassSeries, TopicAreas
from perception.compare.findings import KINDS, MOST_RANGES, SHOWN_RANGES, Check, Finding, Place
from perception.compare.measures import Measures
from perception.compare.series import per_1000, runs
from perception.compare.thing_checks import identity_checks, latency_checks, swap_checks
from perception.compare.tolerance import Tolerance


def checks(measures: Measures, tolerance: Tolerance, untimed: str) -> tuple[Check, ...]:
    """All checks, the most telling kinds first; `untimed` is why latency is not judged, "" where it is."""
    found = [
        *_topic_checks(measures),
        *_frame_checks(measures, tolerance),
        *swap_checks(measures, tolerance),
        *identity_checks(measures, tolerance),
        *_validity_checks(measures, tolerance),
        *latency_checks(measures, tolerance, untimed),
        *_map_checks(measures, tolerance),
        *_message_checks(measures, tolerance),
    ]
    order = list(KINDS)
    return tuple(sorted(found, key=lambda check: order.index(check.kind)))


def _topic_checks(m: Measures) -> Iterator[Check]:
    for name in sorted(m.topics | m.only_topics[0]):
        lost = name not in m.topics
        text = f"topic {name} is not in B at all"
        yield Check("topics", name, (Finding("topics", name, text, 0, 1),) if lost else ())


def _frame_checks(m: Measures, tolerance: Tolerance) -> Iterator[Check]:
    sides = (
        ("missing in B", m.missing, m.unmatched[0], tolerance.missing),
        ("added by B", m.added, m.unmatched[1], tolerance.added),
    )
    for what, rows, count, limit in sides:
        frames = len(m.frames) + m.unmatched[0]
        rate = per_1000(count, frames)
        if rate <= limit:
            yield Check("frames", what)
            continue
        ranges = runs(seq for seq, _, _ in rows)
        shown = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:SHOWN_RANGES])
        shown += ", ..." if ranges[SHOWN_RANGES:] else ""
        reasons = sorted({why for _, _, why in rows if why})
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        text = f"frames {what}: {count} of {frames}, namely {shown}{why}; {_limit(rate, limit)}"
        stamps = (rows[0][1], rows[-1][1])
        yield Check("frames", what, (Finding("frames", what, text, rate, limit, tuple(ranges[:MOST_RANGES]), stamps),))


def _validity_checks(m: Measures, tolerance: Tolerance) -> Iterator[Check]:
    place, findings = Place(m), []
    for (one, other), frames in sorted(m.validity.items()):
        if (rate := per_1000(len(frames), len(m.frames))) > tolerance.validity:
            text = f"validity: {one} in A is {other} in B in {{where}}; {_limit(rate, tolerance.validity)}"
            findings.append(place.finding("validity", f"{one} -> {other}", text, frames, rate, tolerance.validity))
    yield Check("validity", "all topics", tuple(findings))


def _map_checks(m: Measures, tolerance: Tolerance) -> Iterator[Check]:
    for topic, areas in sorted(m.areas.items()):
        pooled, borders = areas.pooled_iou(), areas.boundary_f()
        for name in class_names(areas):
            subject = f"{name} ({topic})"
            found = [*_frame_iou(m, subject, areas.series[name], tolerance)]
            if (value := pooled.get(name, 1.0)) < tolerance.pooled_iou:
                text = f"IoU of {subject} over all frames {value:.4f}, asked {tolerance.pooled_iou:g}"
                found.append(Finding("IoU", subject, text, value, tolerance.pooled_iou, worst=_worst(m, areas, name)))
            yield Check("IoU", subject, tuple(found))
            value = borders.get(name, {}).get(tolerance.boundary_px, 1.0)
            text = (
                f"boundary F of {subject} within {tolerance.boundary_px} px {value:.4f}, asked {tolerance.boundary_f:g}"
            )
            lost = Finding("boundary", subject, text, value, tolerance.boundary_f, worst=_worst(m, areas, name))
            yield Check("boundary", subject, (lost,) if value < tolerance.boundary_f else ())


def _frame_iou(m: Measures, subject: str, series: ClassSeries, tolerance: Tolerance) -> Iterator[Finding]:
    iou, differing = series.iou.values(len(m.frames)), series.differing.values(len(m.frames))
    low = np.nan_to_num(iou, nan=1.0) < np.float32(tolerance.frame_iou)
    frames = np.flatnonzero(low & (np.nan_to_num(differing) > tolerance.frame_px)).tolist()
    if not frames:
        return
    worst = min(frames, key=lambda k: iou[k])
    text = (
        f"IoU of {subject} below {tolerance.frame_iou:g} in {{where}}: least {iou[worst]:.4f} "
        f"in frame {m.frames.seqs[worst]}, {differing[worst]:.0f} px differ"
    )
    yield Place(m).finding("IoU", subject, text, frames, float(iou[worst]), tolerance.frame_iou, worst)


def _message_checks(m: Measures, tolerance: Tolerance) -> Iterator[Check]:
    place = Place(m)
    for topic, counted in sorted(m.bytes.items()):
        found = []
        for label, frames in zip("AB", counted.only, strict=True):
            if (rate := per_1000(len(frames), len(m.frames))) > tolerance.messages:
                text = f"messages of {topic} that only {label} has: {{where}}; {_limit(rate, tolerance.messages)}"
                found.append(place.finding("messages", topic, text, frames, rate, tolerance.messages))
        yield Check("messages", topic, tuple(found))
        if tolerance.level != "bytes":
            yield Check("bytes", topic, skipped=f"the level is {tolerance.level}")
            continue
        parts = ", ".join(name for name, _ in counted.parts.most_common())
        text = f"bytes of {topic} differ in {{where}}: in {parts}"
        differ = [place.finding("bytes", topic, text, counted.frames, len(counted.frames), 0)] if counted.frames else []
        yield Check("bytes", topic, tuple(differ))


def class_names(areas: TopicAreas) -> list[str]:
    """The classes of a topic that occur in A or B; of one with a single group, that alone."""
    is_group = areas.names[1:] == [areas.topic]
    return [name for name in areas.names[is_group:] if name in areas.series]


def _worst(m: Measures, areas: TopicAreas, name: str) -> int | None:
    differing = areas.series[name].differing.values(len(m.frames))
    return int(np.nanargmax(differing)) if not np.isnan(differing).all() else None


def _limit(rate: float, limit: float) -> str:
    return f"{rate:.1f} in 1000, tolerated {limit:g}"

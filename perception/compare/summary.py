"""Measures as the rows and plots that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perception.compare.checks import class_names
from perception.compare.latency import STAGES, TOTAL, stage_medians
from perception.compare.measures import Measures
from perception.compare.pictures import CHANGED
from perception.compare.plain import one_line
from perception.compare.plots import Line, Plot, bucketed
from perception.compare.side import Side
from perception.evaluation.boundary import TOLERANCES
from perception.labels import spread_colour

MOST_LINES = 12
_A, _B, _ALONE = (96, 165, 250), (251, 146, 60), (244, 114, 182)
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How alike A and B are on one class of a topic."""

    topic: str
    name: str
    pooled_iou: float  # over the pixels of all frames
    mean_iou: float  # over the frames where A or B has it
    least_iou: float
    least_frame: int  # A's frame_seq
    frames: int  # where A or B has it
    boundary_f: dict[int, float]  # by distance [px]


@dataclass(frozen=True, slots=True)
class TopicRow:
    """Whether the messages of a topic are the same bytes."""

    topic: str
    equal: int
    different: int
    first_different: int | None  # A's frame_seq
    parts: dict[str, int]  # in what they differ, in how many messages
    only_a: int  # messages in matched frames
    only_b: int
    digest_a: str
    digest_b: str


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """A stretch of a frame's way, p50, p90 and p99 [ms]; NaN where it is not known."""

    stage: str
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    source: str  # decisions | health


def class_rows(m: Measures) -> tuple[ClassRow, ...]:
    rows = []
    for topic, areas in sorted(m.areas.items()):
        pooled, borders = areas.pooled_iou(), areas.boundary_f()
        for name in class_names(areas):
            series = areas.series[name]
            values = series.iou.values(len(m.frames))
            worst = int(np.nanargmin(values))
            f = borders.get(name, dict.fromkeys(TOLERANCES, _NAN))
            mean, least = series.sum_iou / series.frames, float(values[worst])
            rows.append(ClassRow(topic, name, pooled[name], mean, least, m.frames.seqs[worst], series.frames, f))
    return tuple(rows)


def topic_rows(a: Side, b: Side, m: Measures) -> tuple[TopicRow, ...]:
    rows = []
    for topic in sorted(m.topics):
        told = m.bytes.get(topic)
        if told:
            first = m.frames.seqs[told.frames[0]] if told.frames else None
            only_a, only_b = map(len, told.only)
            digests = [side.digests[topic].hex() if topic in side.digests else "" for side in (a, b)]
            rows.append(
                TopicRow(topic, told.equal, len(told.frames), first, dict(told.parts), only_a, only_b, *digests)
            )
    return tuple(rows)


def latency_rows(a: Side, b: Side, m: Measures) -> tuple[LatencyRow, ...]:
    """The decisions' stretches, then the stages that health tells of."""
    one, other = (timing.quantiles() for timing in m.timing)
    none = (_NAN, _NAN, _NAN)
    rows = [
        LatencyRow(name, one.get(name, none), other.get(name, none), "decisions")
        for name in (TOTAL, *STAGES)
        if name in one or name in other
    ]
    health = [
        {name: (row.p50_ms, _NAN, row.p99_ms) for name, row in stage_medians(side.health).items()} for side in (a, b)
    ]
    for name in dict.fromkeys((*health[0], *health[1])):
        rows.append(LatencyRow(name, health[0].get(name, none), health[1].get(name, none), "health"))
    return tuple(rows)


def plots_of(m: Measures) -> tuple[Plot, ...]:
    """IoU by class of each topic with masks, things, id switches and latency, over time."""
    seconds = bucketed(m.seconds(), np.min)
    plots = [plot for topic in sorted(m.areas) if (plot := _iou_plot(m, topic, seconds))]
    n = len(m.frames)
    moments = m.seconds()
    switches = tuple(float(moments[s.frame]) for s in m.identities.switches[:200])
    counts = [
        Line(f"things in {name}", colour, bucketed(series.values(n), np.max))
        for name, colour, series in zip("AB", (_A, _B), m.things, strict=True)
    ]
    plots.append(Plot("things", "things shown; id switches are marked", "", seconds, tuple(counts), switches))
    alone = np.frombuffer(m.frames.alone, np.uint16).astype(np.float32)
    changed = np.frombuffer(m.frames.changed, np.uint16).astype(np.float32)
    lines = (
        Line("things that only A or B has", _ALONE, bucketed(alone, np.max)),
        Line("things of another id or class", CHANGED, bucketed(changed, np.max)),
    )
    plots.append(Plot("changes", "things that differ, by frame", "", seconds, lines))
    values = [timing.by_frame.values(n) for timing in m.timing]
    if not all(np.isnan(v).all() for v in values):
        times = [
            Line(name, colour, bucketed(v, np.max)) for name, colour, v in zip("AB", (_A, _B), values, strict=True)
        ]
        plots.append(
            Plot("latency", "latency to sent, the slowest frame of each stretch", " ms", seconds, tuple(times))
        )
    return tuple(plots)


def _iou_plot(m: Measures, topic: str, seconds: tuple[float, ...]) -> Plot | None:
    """The classes that differ most; None where no class does."""
    lines = [line for line in _iou_lines(m, topic) if min(_known(line), default=1.0) < 1.0]
    if not lines:
        return None
    lines.sort(key=lambda line: min(_known(line)))
    more = f", the {MOST_LINES} lowest of {len(lines)} classes that differ" if len(lines) > MOST_LINES else ""
    title = f"IoU of {topic} by class, the least of each stretch{more}"
    coloured = (Line(line.name, spread_colour(k), line.values) for k, line in enumerate(lines[:MOST_LINES]))
    return Plot("IoU", title, "", seconds, tuple(coloured), top=1.0)


def _iou_lines(m: Measures, topic: str) -> Iterator[Line]:
    areas = m.areas[topic]
    for name in class_names(areas):
        yield Line(one_line(name, 60), _A, bucketed(areas.series[name].iou.values(len(m.frames)), np.min))


def _known(line: Line) -> list[float]:
    return [value for value in line.values if value == value]

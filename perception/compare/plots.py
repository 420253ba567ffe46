"""Figures over time as SVG that needs nothing but the page it is in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

BUCKETS = 240
"""Points of a line: an hour is no larger than a minute."""
_WIDTH, _HEIGHT = 720, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    colour: Colour
    values: tuple[float, ...]  # one a bucket; NaN where there is none


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over one time axis, and moments that are marked on it."""

    kind: str  # a word: IoU | things | changes | latency
    title: str
    unit: str
    seconds: tuple[float, ...]  # of the buckets
    lines: tuple[Line, ...]
    marks: tuple[float, ...] = ()  # [s]
    top: float | None = None  # of the value axis; None: the largest value


def bucketed(values: NDArray, reduce: Callable[[NDArray], float]) -> tuple[float, ...]:
    """At most BUCKETS values: one for each stretch of frames, its NaNs left out."""
    parts = np.array_split(np.asarray(values, np.float64), min(BUCKETS, max(1, len(values))))
    kept = [part[~np.isnan(part)] for part in parts]
    return tuple(float(reduce(part)) if len(part) else math.nan for part in kept)


def svg(plot: Plot) -> str:
    """The plot as an <svg> element; values show in titles where a pointer rests."""
    values = [v for line in plot.lines for v in line.values if not math.isnan(v)]
    low = min(0.0, min(values, default=0.0)) if plot.top is None else _floor(values, plot.top)
    high = plot.top if plot.top is not None else max(values, default=1.0)
    high = high if high > low else low + 1
    end = max(plot.seconds[-1] if plot.seconds else 0.0, 1e-3)

    def x(second: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * second / end

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low))

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(plot.title)}">']
    parts += _axes(low, high, end, x, y)
    for second in plot.marks:
        parts.append(f'<line class="mark" x1="{x(second):.1f}" x2="{x(second):.1f}" y1="{_TOP}" y2="{y(low):.1f}"/>')
    for line in plot.lines:
        parts += _polylines(line, plot.seconds, x, y)
    parts += _hovers(plot, x)
    return "".join((*parts, "</svg>"))


def legend(plot: Plot) -> str:
    """Names of the lines with their colours."""
    names = (f"<span>{swatch(line.colour)} {escape(line.name)}</span>" for line in plot.lines)
    return f'<p class="legend">{" ".join(names)}</p>'


def swatch(colour: Colour) -> str:
    """A small square of a colour."""
    return f'<svg class="swatch" viewBox="0 0 10 10"><rect width="10" height="10" fill="{_hex(colour)}"/></svg>'


def _floor(values: Sequence[float], top: float) -> float:
    """The value axis of shares begins a little below the least, so that a thousandth can be seen."""
    least = min(values, default=0.0)
    return max(0.0, top - max(1.15 * (top - least), 0.01))


def _axes(low: float, high: float, end: float, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    parts = []
    form = ".3f" if high - low < 0.2 else ".3g"
    for k in range(5):
        value = low + (high - low) * k / 4
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:{form}}</text>')
    for k in range(6):
        second = end * k / 5
        anchor = "end" if k == 5 else "middle"
        told = f"{second:.1f} s" if end < 100 else f"{second:.0f} s"
        parts.append(f'<text x="{x(second):.1f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{told}</text>')
    return parts


def _polylines(
    line: Line, seconds: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    """One for each stretch without NaN; a stretch of one point is a dot."""
    stretches: list[list[str]] = [[]]
    for second, value in zip(seconds, line.values, strict=True):
        if math.isnan(value):
            stretches.append([])
        else:
            stretches[-1].append(f"{x(second):.1f},{y(value):.1f}")
    colour, parts = _hex(line.colour), []
    for points in filter(None, stretches):
        if len(points) == 1:
            at_x, at_y = points[0].split(",")
            parts.append(f'<circle cx="{at_x}" cy="{at_y}" r="2" fill="{colour}"/>')
        else:
            parts.append(f'<polyline points="{" ".join(points)}" stroke="{colour}"/>')
    return parts


def _hovers(plot: Plot, x: Callable[[float], float]) -> list[str]:
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(plot.seconds))
    parts = []
    for k, second in enumerate(plot.seconds):
        told = [f"{ln.name} {ln.values[k]:.4g}{plot.unit}" for ln in plot.lines if not math.isnan(ln.values[k])]
        text = escape("\n".join((f"{second:.2f} s", *told)))
        parts.append(
            f'<rect class="hover" x="{x(second) - width / 2:.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"><title>{text}</title></rect>'
        )
    return parts


def _hex(colour: Colour) -> str:
    r, g, b = colour
    return f"#{r:02x}{g:02x}{b:02x}"

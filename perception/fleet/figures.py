"""What a result shows, in a few figures a class: what a person reads when a reference changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from perception import wire
from perception.drives import layout
from perception.drives.recording import Recording
from perception.types import VOID
from perception.wire import Kind, Message
from perception.wire.pixels import MASKS

Figures = dict[str, dict[str, float]]
"""By topic, or "topic: class" of a topic with labels: `frames` that show it, `share` of the mask's pixels on average
over all its messages, and `things`: distinct ids, where the topic has such."""


@dataclass
class _Row:
    frames: int = 0
    share: float = 0.0
    ids: set[int] = field(default_factory=set)
    has_ids: bool = False


def figures_of(recording: Recording) -> Figures:
    """The figures of a result's masks. Raises RecordingError, WireError where it is damaged."""
    front = layout.wire(f"{recording.about.camera}/") if recording.about else ""
    rows: dict[str, _Row] = {}
    counts: dict[str, int] = {}
    for record in recording.messages({topic for topic in recording.channels if topic.startswith(front)}):
        message = wire.decode(record.data)
        if message.kind not in MASKS:
            continue
        topic = message.topic.partition("/")[2]
        counts[topic] = counts.get(topic, 0) + 1
        for name, share in _shares(topic, message):
            row = rows.setdefault(name, _Row())
            row.frames += share > 0
            row.share += share
        if message.kind is Kind.POSITIONS:
            rows[topic].has_ids = True
            rows[topic].ids.update(track.id for track in message.header.tracks)
    return {name: _told(row, counts[name.partition(":")[0]]) for name, row in sorted(rows.items())}


def changes(old: Figures, new: Figures) -> list[str]:
    """One line for each row that is another one now: `pedestrian: things 7 -> 9, share 0.0131 -> 0.0127`; of a new one,
    its figures alone."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, {}), new.get(name, {})
        told = [
            f"{figure} {_number(before.get(figure))} -> {_number(after.get(figure))}"
            if before
            else f"{figure} {_number(after.get(figure))}"
            for figure in ("things", "frames", "share")
            if before.get(figure) != after.get(figure)
        ]
        if told:
            lines.append(f"{name}: {', '.join(told)}")
    return lines


def _shares(topic: str, message: Message) -> Iterator[tuple[str, float]]:
    mask = message.mask()
    if message.kind is not Kind.LABELS:
        yield topic, int(np.count_nonzero(mask)) / mask.size
        return
    counted = np.bincount(mask.ravel(), minlength=VOID + 1)
    for name, count in zip(message.header.classes, counted.tolist(), strict=False):
        yield f"{topic}: {name}", count / mask.size


def _told(row: _Row, messages: int) -> dict[str, float]:
    told: dict[str, float] = {"frames": row.frames, "share": round(row.share / messages, 6)}
    return told | {"things": len(row.ids)} if row.has_ids else told


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"

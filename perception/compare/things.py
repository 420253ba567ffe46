"""The things of a frame, and which of A's things is which of B's: by the IoU of their masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.tracking import LEAST_IOU
from perception.propagation.motion import box_iou
from perception.types import TrackState
from perception.wire import Kind, Message, TrackRow

_SHOWN = (TrackState.TENTATIVE, TrackState.CONFIRMED)


@dataclass(frozen=True, slots=True, eq=False)
class Things:
    """What one recording shows in one frame."""

    rows: tuple[TrackRow, ...]
    id_map: NDArray[np.uint16] | None  # (h, w) 0 = nothing, k = rows[k - 1]; None where no message has masks of things
    areas: NDArray[np.int64]  # (n,) [px]; of a thing without a mask, of its box
    masked: NDArray[np.bool_]  # (n,) whether it is in id_map


@dataclass(frozen=True, slots=True, eq=False)
class ThingPairs:
    """Who is who: each thing at most once."""

    a: Things
    b: Things
    pairs: tuple[tuple[int, int], ...]  # places in a.rows and b.rows

    def alone(self, side: int) -> list[int]:
        """Places of A's (0) or B's (1) things that have no partner."""
        met = {pair[side] for pair in self.pairs}
        return [k for k in range(len((self.a, self.b)[side].rows)) if k not in met]


def things_of(messages: Mapping[str, Message], topics: Iterable[str]) -> Things:
    """All things that these topics show: by mask where a `positions` topic has one, else by the box of `tracks`.

    Raises WireError for a broken payload.
    """
    rows: list[TrackRow] = []
    known: set[int] = set()
    id_map: NDArray[np.uint16] | None = None
    ordered = sorted(topics, key=lambda name: (name != "instances", name))  # the one with all things first
    for message in (messages[name] for name in ordered if name in messages):
        if message.kind is not Kind.POSITIONS:
            continue
        table = np.zeros(len(message.header.tracks) + 1, np.uint16)
        for k, row in enumerate(message.header.tracks, start=1):
            if row.id not in known:
                known.add(row.id)
                rows.append(row)
                table[k] = len(rows)
        if table.any() or id_map is None:
            painted = table[message.mask()]
            id_map = painted if id_map is None else np.where(painted > 0, painted, id_map)
    masked = len(rows)
    if "tracks" in messages and "tracks" in ordered:
        told = messages["tracks"].header.tracks
        rows += [row for row in told if row.id not in known and row.state in _SHOWN]
    areas = np.array([_box_area(row) for row in rows], np.int64)
    if id_map is not None:
        areas[:masked] = np.bincount(id_map.ravel(), minlength=len(rows) + 1)[1 : masked + 1]
    return Things(tuple(rows), id_map, areas, np.arange(len(rows)) < masked)


def match_same(messages: Mapping[str, Message], topics: Iterable[str]) -> ThingPairs:
    """The pairs of a frame of which both recordings say the same: no mask needs to be looked at."""
    told = (messages[name].header.tracks for name in topics if name in messages and name != "events")
    rows = {row.id: row for tracks in told for row in tracks if row.state in _SHOWN}
    none = np.zeros(len(rows), np.int64)
    things = Things(tuple(rows.values()), None, none, none.astype(bool))
    return ThingPairs(things, things, tuple((k, k) for k in range(len(rows))))


def match(a: Things, b: Things) -> ThingPairs:
    """Pairs of IoU >= 0.5, the greatest first: of masks where both have one, else of boxes."""
    iou = box_iou(_boxes(a.rows), _boxes(b.rows))
    if a.id_map is not None and b.id_map is not None and a.id_map.shape == b.id_map.shape:
        both = np.ix_(a.masked, b.masked)
        iou[both] = _mask_iou(a, b)[both]
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(iou >= LEAST_IOU)
    taken: tuple[set[int], set[int]] = (set(), set())
    for k in np.argsort(-iou[rows, columns], kind="stable"):
        i, j = int(rows[k]), int(columns[k])
        if i not in taken[0] and j not in taken[1]:
            pairs.append((i, j))
            taken[0].add(i)
            taken[1].add(j)
    return ThingPairs(a, b, tuple(sorted(pairs)))


def _mask_iou(a: Things, b: Things) -> NDArray[np.float64]:
    """(n, m), right where both have a mask."""
    assert a.id_map is not None
    assert b.id_map is not None
    n, m = len(a.rows) + 1, len(b.rows) + 1
    codes = a.id_map.astype(np.intp).ravel() * m + b.id_map.ravel()
    both = np.bincount(codes, minlength=n * m).reshape(n, m)[1:, 1:]
    return both / np.maximum(a.areas[:, None] + b.areas[None] - both, 1)


def _boxes(rows: tuple[TrackRow, ...]) -> NDArray[np.float64]:
    """(n, 4)"""
    return np.array([row.box for row in rows], np.float64).reshape(-1, 4)


def _box_area(row: TrackRow) -> int:
    x0, y0, x1, y1 = row.box
    return max(0, x1 - x0) * max(0, y1 - y0)

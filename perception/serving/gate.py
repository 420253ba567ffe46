"""The conformance gate: no engine serves that does not see the golden frames as the reference does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.engines.plan import Precision
from perception.propagation.carrier import Carried, Kept
from perception.propagation.memory import MemoryCarrier
from perception.protocols import Engine
from perception.serving.golden import FPS, IN_A_ROW, golden_frames
from perception.serving.report import TOLERANCES, Comparison, Report
from perception.serving.rungs import Opened, Size, hosted
from perception.types import Panoptic

LEAST_REPEATS = 0.999  # share of equal labels where one frame is seen twice
MOST_THINGS = 16  # that are carried


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What an engine makes of the golden frames."""

    name: str
    seen: list[Panoptic]
    again: Panoptic  # the first frame, a second time
    carried: list[Carried]
    times_s: list[float]


def answers_of(opened: Opened, size: Size, told: Answers | None = None) -> Answers:
    """Run the golden frames; the propagator carries what the reference has `told`, so that it is judged by itself.

    Raises:
        ModelError, DeviceError: the engine fails.
    """
    frames, seen, times = golden_frames(size), list[Panoptic](), list[float]()
    opened.model(frames[0])  # the first one may take longer
    for frame in frames:
        began = time.perf_counter()
        got = opened.model(frame)
        times.append(time.perf_counter() - began)
        seen.append(hosted(got))
    carried = _carried(opened.carrier, told.seen if told else seen) if opened.carrier else []
    return Answers(opened.name, seen, hosted(opened.model(frames[0])), carried, times)


def _carried(engine: Engine, seen: list[Panoptic]) -> list[Carried]:
    """The things of the last frame apart, through those in a row."""
    carrier, row = MemoryCarrier(engine, buckets=1), seen[-len(IN_A_ROW) - 1 :]
    found: list[Carried] = []
    masks = _masks(row[0], carrier)
    for i, panoptic in enumerate(row):
        if panoptic.features is None:
            return []
        now_ns = round(i * 1e9 / FPS)
        carried = carrier.carry(panoptic.features, now_ns)
        if i:
            found.append(Carried(*(np.array(a) for a in (carried.masks, carried.presence, carried.quality))))
        active = np.asarray(masks.any((1, 2)))
        seen_ns = np.zeros(len(masks), np.int64)
        carrier.keep(Kept(masks, active, np.asarray(active, np.float32), seen_ns, True, i == 0))
    return found


def _masks(panoptic: Panoptic, carrier: MemoryCarrier) -> NDArray[np.float32]:
    """(slots, h, w) of the largest things."""
    height, width = panoptic.id_map.shape
    masks = np.zeros((carrier.slots, height // 4, width // 4), np.float32)
    largest = sorted(range(len(panoptic.segments)), key=lambda k: -panoptic.segments[k].area_px)[:MOST_THINGS]
    for slot, k in enumerate(largest[: carrier.cheap_slots]):
        cells = (panoptic.id_map == k + 1).reshape(height // 4, 4, width // 4, 4)
        masks[slot] = cells.mean((1, 3), dtype=np.float32)
    return masks


def judge(candidate: Answers, reference: Answers, classes: tuple[str, ...], precision: Precision) -> Report:
    """Whether a candidate may serve, and by how much it does or does not agree."""
    limit, comparison, repeated = TOLERANCES[precision], Comparison(classes), Comparison(classes)
    for wanted, got in zip(reference.seen, candidate.seen, strict=True):
        comparison.add(wanted, got)
    repeated.add(candidate.seen[0], candidate.again)
    carried = _agreement(reference.carried, candidate.carried)
    failures = [*comparison.failures(limit)]
    if repeated.equal < LEAST_REPEATS:
        failures.append(f"one frame seen twice gives {100 * (1 - repeated.equal):.2f} % other labels")
    if carried is not None and not carried >= limit.carried:
        failures.append(f"IoU of carried masks is {100 * carried:.1f} %, at least {100 * limit.carried:g} must be")
    return Report(
        candidate.name, reference.name, not failures, tuple(failures), comparison.equal, repeated.equal,
        comparison.iou(), comparison.found, comparison.centre_px, comparison.cosine(), carried,
        1e3 * statistics.median(candidate.times_s), 1e3 * statistics.median(reference.times_s), len(candidate.seen),
    )  # fmt: skip


def _agreement(wanted: list[Carried], got: list[Carried]) -> float | None:
    """IoU of all carried masks; None where the two did not both carry."""
    if not wanted or not got:
        return None
    shared = union = 0
    for a, b in zip(wanted, got, strict=True):
        if not np.isfinite(b.masks).all():
            return 0.0
        one, other = a.masks > 0.5, b.masks > 0.5
        shared += int((one & other).sum())
        union += int((one | other).sum())
    return shared / union if union else 1.0


class Reference:
    """The engine that others are held against, opened when it is first needed.

    Args:
        opens: opens it.
    """

    def __init__(self, opens: Callable[[], Opened]) -> None:
        self._opens = opens
        self._opened: Opened | None = None
        self._answers: dict[Size, Answers] = {}

    def open(self) -> Opened:
        """Raises ModelError."""
        if self._opened is None:
            self._opened = self._opens()
        return self._opened

    def answers(self, size: Size) -> Answers:
        """To the golden frames. Raises ModelError."""
        if size not in self._answers:
            self._answers = {size: answers_of(self.open(), size)}
        return self._answers[size]

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

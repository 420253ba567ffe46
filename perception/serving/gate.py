"""The conformance gate: no engine serves that does not see the golden frames as the reference does."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from perception.engines.child_build import Cancelled
from perception.engines.plan import Precision
from perception.errors import ModelError
from perception.propagation.carrier import Carried, Kept
from perception.propagation.flaws import flaw
from perception.propagation.memory import MemoryCarrier
from perception.protocols import Engine
from perception.serving.comparison import ENCODERS, Comparison
from perception.serving.golden import FPS, IN_A_ROW, golden_frames
from perception.serving.report import TOLERANCES, Report
from perception.serving.rungs import Opened, Size, hosted, hosted_features
from perception.types import Features, Panoptic

T = TypeVar("T")

LEAST_REPEATS = 0.999  # share of equal labels where one frame is seen twice
MOST_THINGS = 16  # that are carried


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What an engine makes of the golden frames."""

    name: str
    seen: list[Panoptic]
    again: Panoptic  # the first frame, a second time
    encoded: list[Features]  # by the encoder alone; none where it has no engine
    carried: list[tuple[Carried, NDArray[np.bool_]]]  # and (slots,) which of them hold a thing
    flaws: list[str]  # outputs of the propagator that hold what is no number
    times_s: dict[str, list[float]]  # of each call, by kind: "network", "encoder", "carry"


def answers_of(
    opened: Opened, size: Size, told: Answers | None = None, ended: Callable[[], bool] = lambda: False
) -> Answers:
    """Run the golden frames; the propagator carries what the reference has `told`, so that it is judged by itself.

    Args:
        ended: asked before each call; True ends it.

    Raises:
        ModelError, DeviceError: the engine fails. Cancelled: `ended` said so.
    """
    frames, seen, encoded, calls = golden_frames(size), list[Panoptic](), list[Features](), _Calls(ended)
    calls("", lambda: opened.model(frames[0]))  # the first one may take longer
    for frame in frames:
        seen.append(hosted(calls("network", lambda frame=frame: opened.model(frame))))
    for frame in frames:
        features = calls("encoder", lambda frame=frame: opened.model.features(frame))
        encoded += [hosted_features(features)] if features else []
    again, carried, flaws = hosted(calls("", lambda: opened.model(frames[0]))), [], []
    if opened.carrier:
        watched = _Watched(opened.carrier, calls)
        carried, flaws = _carried(watched, told.seen if told else seen), watched.flaws
    kinds = ("network", "encoder", "carry") if encoded else ("network", "carry")
    return Answers(opened.name, seen, again, encoded, carried, flaws, {kind: calls.times_s[kind] for kind in kinds})


@dataclass(eq=False)
class _Calls:
    """Makes an engine's calls and times them, until it is ended."""

    ended: Callable[[], bool]
    times_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by kind

    def __call__(self, kind: str, call: Callable[[], T]) -> T:
        """What the call gives. Raises what it raises, Cancelled."""
        if self.ended():  # whoever ends the process waits for no more than the call that is made now
            raise Cancelled
        began = time.perf_counter()
        value = call()
        self.times_s[kind].append(time.perf_counter() - began)
        return value


@dataclass(eq=False)
class _Watched:
    """An engine whose calls are timed, and whose answers must be numbers; what it keeps, it keeps itself."""

    engine: Any
    calls: _Calls
    flaws: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        out = self.calls("carry", lambda: self.engine(arrays))
        self.look(out)
        return out

    def look(self, arrays: Mapping[str, NDArray]) -> None:
        self.flaws += [what] if (what := flaw(arrays)) else []


def _carried(engine: _Watched, seen: list[Panoptic]) -> list[tuple[Carried, NDArray[np.bool_]]]:
    """The things of the last frame apart, through those in a row; fewer where it gives what is no number."""
    carrier, row = MemoryCarrier(cast("Engine", engine), buckets=1), seen[-len(IN_A_ROW) - 1 :]
    found: list[tuple[Carried, NDArray[np.bool_]]] = []
    masks = _masks(row[0], carrier)
    active = np.asarray(masks.any((1, 2)))
    for i, panoptic in enumerate(row):
        if panoptic.features is None:
            return []
        try:
            carried = carrier.carry(panoptic.features, round(i * 1e9 / FPS))
        except ModelError:
            if engine.flaws:
                return found
            raise
        if i:
            copied = Carried(*(np.array(a) for a in (carried.masks, carried.presence, carried.quality)))
            found.append((copied, active))
        seen_ns = np.zeros(len(masks), np.int64)
        carrier.keep(Kept(masks, active, np.asarray(active, np.float32), seen_ns, True, i == 0))
    if hasattr(engine, "read_state"):
        engine.look(engine.read_state())
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
    limit, comparison, repeated = TOLERANCES[precision], _compared(candidate, reference, classes), Comparison(classes)
    repeated.add(candidate.seen[0], candidate.again)
    failures = [f"the propagator's {name} hold what is no number" for name in dict.fromkeys(candidate.flaws)]
    failures += comparison.failures(limit)
    if repeated.equal < LEAST_REPEATS:
        failures.append(f"one frame seen twice gives {100 * (1 - repeated.equal):.2f} % other labels")
    has_carried = bool(candidate.carried and reference.carried)
    times, others = candidate.times_s["network"], reference.times_s["network"]
    return Report(
        candidate.name, reference.name, not failures, tuple(failures), comparison.equal, repeated.equal,
        comparison.iou(), comparison.found, comparison.centre_px, comparison.cosine(),
        comparison.carried if has_carried else None, comparison.off(), 1e3 * statistics.median(times),
        1e3 * statistics.median(others), len(candidate.seen),
    )  # fmt: skip


def _compared(candidate: Answers, reference: Answers, classes: tuple[str, ...]) -> Comparison:
    comparison = Comparison(classes)
    for wanted, got in zip(reference.seen, candidate.seen, strict=True):
        comparison.add(wanted, got)
    if candidate.encoded and reference.encoded:
        for wanted, got in zip(reference.encoded, candidate.encoded, strict=True):
            comparison.feel(wanted, got, ENCODERS)
    for (wanted, active), (got, _) in zip(reference.carried, candidate.carried, strict=False):
        comparison.carry(wanted, got, active)
    return comparison


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

    def answers(self, size: Size, ended: Callable[[], bool] = lambda: False) -> Answers:
        """To the golden frames. Raises ModelError, and Cancelled as `answers_of`."""
        if size not in self._answers:
            self._answers = {size: answers_of(self.open(), size, ended=ended)}
        return self._answers[size]

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

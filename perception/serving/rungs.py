"""What a ladder is made of: engines that can be opened, and those that are open."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from perception.engines.plan import Precision, Progress
from perception.errors import PerceptionError
from perception.protocols import Engine, Model
from perception.serving.worker import Worker
from perception.types import Features, Panoptic

if TYPE_CHECKING:
    from perception.serving.report import Report

T = TypeVar("T")


class Refused(PerceptionError):
    """The engine may not serve, whatever is tried."""


Size = tuple[int, int]
"""Width and height of the camera's frames [px]."""

FEW = 4  # calls, after which it is known how long they usually take


def hosted(seen: Panoptic) -> Panoptic:
    """A copy that outlives the engine's next call: an accelerator may keep features where it runs until then."""
    features = seen.features and hosted_features(seen.features)
    return Panoptic(seen.labels.copy(), seen.id_map.copy(), seen.segments, features, seen.confidence, seen.looks)


def hosted_features(features: Features) -> Features:
    """The same of features alone."""
    return Features(*(np.array(a) for a in (features.keys, features.context, features.fine8, features.fine4)))


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """Engines that serve together: of the network, and of the propagator where it has one."""

    name: str  # "tensorrt-fp16", "openvino-bf16": said in health
    model: Model
    carrier: Engine | None = None  # None: the bottom's carries
    began: Callable[[], None] = _nothing  # is called when it begins to serve
    forks: list[Engine] = field(default_factory=list)  # of the carrier, closed with it

    def close(self) -> None:
        self.model.close()
        for engine in (*self.forks, self.carrier):
            if engine is not None:
                engine.close()


class Rung(Protocol):
    """An engine above the bottom, which works anywhere. Its methods are called by background threads only."""

    name: str
    precision: Precision

    def needs_build(self, size: Size) -> bool:
        """Whether `prepare` will take minutes. Raises ModelError where the engine is not there."""
        ...

    def prepare(self, size: Size, progress: Progress, cancelled: Callable[[], bool]) -> None:
        """Have everything that `open` needs, also by building it in a child process.

        Raises:
            ModelError: it can't be had. DeviceError: later, perhaps. Cancelled: `cancelled` said so.
        """
        ...

    def open(self) -> Opened:
        """In the thread that will call it.

        Raises:
            ModelError: it must be prepared anew. DeviceError: later, perhaps. Refused: never.
        """
        ...

    def judged(self, report: Report) -> None:
        """Keep what the conformance gate said. Never raises."""
        ...

    def settled(self, has_served: bool = False) -> None:
        """It has served for a while, or was closed in order: it does not end the process. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an accelerator's call may take before it is left behind, and a build before it is ended."""

    least_s: float = 0.25
    times: float = 20.0  # of what it usually takes
    first_s: float = 5.0  # while that is not known
    open_s: float = 120.0
    build_s: float = 3600.0  # without a word of how far it is


@dataclass(eq=False)
class Standing:
    """An opened rung, and how fast it is.

    Args:
        worker: whose thread calls it; None: the caller's own.

    Attributes:
        has_settled: it has served for a while, and that was told.
    """

    opened: Opened
    worker: Worker | None = None
    patience: Patience = Patience()
    calls: Counter[str] = field(default_factory=Counter)  # by kind
    has_settled: bool = False
    _times: dict[str, deque[float]] = field(default_factory=dict)

    @property
    def is_busy(self) -> bool:
        """A call that was left behind has not returned."""
        return self.worker is not None and self.worker.is_busy

    def run(self, kind: str, call: Callable[[Opened], T], clock: Callable[[], float]) -> T:
        """Raises ModelError, DeviceError."""
        began = clock()
        value = call(self.opened) if self.worker is None else self._in_worker(self.worker, kind, call)
        self.note(kind, [clock() - began])
        self.calls[kind] += 1
        return value

    def note(self, kind: str, times_s: Iterable[float]) -> None:
        """Calls of a kind took so long."""
        self._times.setdefault(kind, deque(maxlen=30)).extend(times_s)

    def _in_worker(self, worker: Worker, kind: str, call: Callable[[Opened], T]) -> T:
        usual = self.usual_s(kind) or self.usual_s()  # to fetch something takes no longer than to see a frame
        wait_s = max(self.patience.least_s, self.patience.times * usual) if usual else self.patience.first_s
        return worker(lambda: call(self.opened), wait_s)

    def usual_s(self, kind: str = "network") -> float | None:
        """Median of the last calls of a kind [s]; None after few."""
        times = self._times.get(kind, ())
        return statistics.median(times) if len(times) >= FEW else None

    def close(self) -> bool:
        """Whether it is closed; False while a call that does not return keeps it."""
        if self.worker is None:
            self.opened.close()
            return True
        return self.worker.close(self.opened.close)

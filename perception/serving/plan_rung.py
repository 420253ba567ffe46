"""A rung whose graphs are compiled for this machine, and kept in the cache."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from perception.engines.building import LOWEST, Order, key_of, named
from perception.engines.cache import CacheError, Manifest, Mark, PlanCache, PlanKey, Refusal, Trial, Unwanted
from perception.engines.child_build import build_in_child
from perception.engines.plan import PlanCompiler, Precision, Progress
from perception.errors import DeviceError, ModelError
from perception.protocols import Engine
from perception.serving.report import Report
from perception.serving.rungs import Opened, Refused, Size

log = logging.getLogger(__name__)

MOST_DEATHS = 3  # of processes that had just loaded a plan: then it may be what ends them
LOOKS = 2  # for a plan, while another process replaces it
REPORT = "conformance"


class Recipe(Protocol):
    """What is compiled of a model, and how its plans make a model again."""

    def graphs(self, size: Size) -> Mapping[str, Path]:
        """The graphs for camera frames of this size, by part. Raises ModelError."""
        ...

    def precision(self, part: str) -> Precision:
        """Of one of the graphs."""
        ...

    def forget(self, size: Size) -> None:
        """Have the graphs made anew, as far as they are made. Never raises."""
        ...

    def assemble(self, engines: Mapping[str, Engine], name: str, size: Size) -> Opened:
        """Raises ModelError where the engines are not what the card says."""
        ...


class PlanRung:
    """Compiles in a child process, loads from the cache.

    Args:
        opens: makes the compiler; in a background thread, for that may take a second. Raises ModelError, DeviceError.
        niceness: of the build.
    """

    def __init__(
        self,
        name: str,
        opens: Callable[[], PlanCompiler],
        recipe: Recipe,
        cache: PlanCache,
        precision: Precision,
        niceness: int = LOWEST,
    ) -> None:
        self.name = f"{name}-{precision}"
        self.precision: Precision = precision
        self._opens, self.recipe, self._cache, self._niceness = opens, recipe, cache, niceness
        self._compiler: PlanCompiler | None = None
        self._size: Size = (0, 0)
        self._parts: dict[str, tuple[Path, PlanKey]] = {}
        self._trials: list[tuple[PlanKey, Trial]] = []

    @property
    def compiler(self) -> PlanCompiler:
        """Raises ModelError, DeviceError."""
        if self._compiler is None:
            self._compiler = self._opens()
        return self._compiler

    def check(self) -> None:
        """Before any work: raises ModelError, DeviceError where the machine or the precision is not there."""
        self.compiler.target()
        self.compiler.check(self.precision)

    def parts(self, size: Size) -> dict[str, tuple[Path, PlanKey]]:
        """The graphs and their keys, by part. Raises ModelError, DeviceError."""
        if size != self._size or not self._parts:
            self.check()
            graphs, profile = self.recipe.graphs(size), {"frame": [*size]}
            self._parts = {
                part: (path, key_of(self.compiler, path, self.recipe.precision(part), profile))
                for part, path in graphs.items()
            }
            self._size = size
        return self._parts

    def needs_build(self, size: Size) -> bool:
        """As `Rung` says; raises Refused, too."""
        return not all(self._is_built(key) for _, key in self.parts(size).values())

    def _is_built(self, key: PlanKey, part: str = "") -> bool:
        """Raises Refused for one that may not serve, CacheError."""
        try:
            self._cache.find(key)
        except Unwanted as refusal:
            raise Refused(f"{refusal}; perception build with --again, or with other limits") from None
        except Refusal as refusal:
            if part and str(refusal):
                log.warning("%s: the plan of its %s is built anew: %s", self.name, part, refusal)
            return False
        return True

    def prepare(self, size: Size, progress: Progress, cancelled: Callable[[], bool]) -> None:
        """As `Rung` says; raises Refused, too."""
        self._parts = {}  # the graphs may have been removed since, as the plans
        for part, (graph, key) in self.parts(size).items():
            if self._is_built(key, part):
                log.info("%s: the plan of its %s is in the cache", self.name, part)
                continue
            self._cache.prepare()
            self._build(part, graph, key, progress, cancelled)

    def _build(self, part: str, graph: Path, key: PlanKey, progress: Progress, cancelled: Callable[[], bool]) -> None:
        profile = {"frame": [*self._size]}
        what = f"{graph.stem} {part} {self.name}"
        order = Order(
            named(self.compiler), str(graph), key.precision, str(self._cache.root), profile, what, self._niceness
        )
        log.info("%s: building the plan of its %s", self.name, part)
        build_in_child(order, self._cache, key, lambda w, d, n: progress(f"{part}: {w}", d, n), cancelled)

    def open(self) -> Opened:
        engines: dict[str, Engine] = {}
        try:
            for part, (_, key) in self._parts.items():
                engines[part] = self._load(key)
            return self.recipe.assemble(engines, self.name, self._size)
        except BaseException:
            self.settled()
            for engine in engines.values():
                with contextlib.suppress(Exception):
                    engine.close()
            raise

    def _load(self, key: PlanKey) -> Engine:
        """Raises Refused, ModelError where the plan is broken (it is removed then), DeviceError."""
        if (deaths := self._cache.deaths(key)) >= MOST_DEATHS:
            raise Refused(
                f"{deaths} processes that loaded {self._cache.entry(key)} died soon after; perception build --again"
            )
        with contextlib.suppress(OSError):  # a cache that can only be read: nothing is known of deaths
            self._trials.append((key, self._cache.begin_trial(key)))
        for _ in range(LOOKS):
            plan = self._found(key)
            manifest = self._cache.manifest(key)
            if plan is None or manifest is None:
                continue
            try:
                return self.compiler.open(plan)
            except FileNotFoundError as error:
                if Path(error.filename or "") != plan:
                    raise
            except ModelError:
                if self._cache.manifest(key) == manifest:  # else it is another plan than the one that is broken
                    self.compiler.target()  # raises where the accelerator is gone: that is no fault of the plan's
                    self._cache.remove(key, manifest)
                    raise
        raise DeviceError(f"{self._cache.entry(key)} was removed or is being replaced by another process")

    def _found(self, key: PlanKey) -> Path | None:
        """The plan; None where there is none any more. Raises ModelError for one that may not be loaded."""
        try:
            return self._cache.find(key)
        except Refusal as refusal:
            if not str(refusal):
                return None
            raise ModelError(f"its plan can't be loaded: {refusal}") from None

    def judged(self, report: Report) -> None:
        for _, key in self._parts.values():
            told = msgspec.json.format(msgspec.json.encode(report), indent=1).decode()
            self._cache.annotate(key, f"{REPORT}.json", told)
            self._cache.annotate(key, f"{REPORT}.txt", report.text())

    def settled(self, has_served: bool = False) -> None:
        trials, self._trials = self._trials, []
        for key, trial in trials:
            with contextlib.suppress(OSError):
                trial.end()
            if has_served:  # those who died with it may have lost their power: what ends processes serves no while
                self._cache.forgive(key)

    def forget(self, size: Size) -> None:
        """Have its graphs and plans made anew; forget the processes that died with them, and that they were refused.

        Raises ModelError, DeviceError.
        """
        self.recipe.forget(size)
        self._parts = {}
        for _, key in self.parts(size).values():
            self._cache.forgive(key)
            self._cache.accept(key)
            self._cache.remove(key)

    def refuse(self, size: Size, part: str, reason: str, terms: str) -> None:
        """Have the plan of a part serve no more, nor be built again for service. Raises ModelError, DeviceError."""
        self._cache.refuse(self.parts(size)[part][1], reason, terms)

    def reconsider(self, size: Size, terms: str) -> None:
        """Let what was refused under other terms be built again. Raises ModelError, DeviceError."""
        for _, key in self.parts(size).values():
            if (mark := self._cache.mark(key)) and mark.terms != terms:
                self._cache.accept(key)

    def marks(self, size: Size) -> list[tuple[PlanKey, Mark]]:
        """Why its plans may not serve, of those that may not. Raises ModelError, DeviceError."""
        return [(key, mark) for _, key in self.parts(size).values() if (mark := self._cache.mark(key))]

    def restore(self, marks: Iterable[tuple[PlanKey, Mark]]) -> None:
        """Refuse again what is not refused otherwise by now. Never raises."""
        for key, mark in marks:
            if self._cache.mark(key) is None:
                with contextlib.suppress(CacheError):
                    self._cache.refuse(key, mark.reason, mark.terms)

    def manifests(self, size: Size) -> dict[str, tuple[Path, Manifest]]:
        """The folder of each part's plan, and what lies beside it. Raises ModelError, DeviceError."""
        keys = {part: key for part, (_, key) in self.parts(size).items()}
        told = {part: (self._cache.entry(key), self._cache.manifest(key)) for part, key in keys.items()}
        return {part: (folder, manifest) for part, (folder, manifest) in told.items() if manifest}


class DirectRung:
    """An engine that takes the graphs as they are.

    Args:
        opens: opens it. Raises ModelError, DeviceError.
    """

    def __init__(self, name: str, opens: Callable[[], Opened], precision: Precision = "fp32") -> None:
        self.name, self._opens = name, opens
        self.precision: Precision = precision

    def open(self) -> Opened:
        return self._opens()

    def needs_build(self, size: Size) -> bool:
        return False

    def prepare(self, size: Size, progress: Progress, cancelled: Callable[[], bool]) -> None:
        """Nothing."""

    def judged(self, report: Report) -> None:
        """Nothing: it is said in health."""

    def settled(self, has_served: bool = False) -> None:
        """Nothing."""

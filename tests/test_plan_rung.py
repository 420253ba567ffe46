"""When a plan that can't be loaded is removed, and when not. No GPU was used: the compiler is `tests.plan_fakes`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.engines.building import build, key_of
from perception.engines.cache import PlanCache, PlanKey
from perception.errors import DeviceError, ModelError
from perception.protocols import Engine
from perception.serving.plan_rung import PlanRung
from perception.serving.rungs import Opened
from perception.types import Panoptic
from tests.plan_fakes import HeaderCompiler, HeaderEngine
from tests.test_panoptic import CARD, ENCODER, tiny_panoptic
from tests.test_plan_cache import built_on

SIZE = (64, 32)


class OneEngine:
    """A model that is only held."""

    mask_size: tuple[int, int] = SIZE

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        raise NotImplementedError

    def features(self, image: NDArray[np.uint8]) -> None: ...

    def close(self) -> None:
        self.engine.close()


class OneGraph:
    """Implements `plan_rung.Recipe`."""

    def __init__(self, graph: Path) -> None:
        self.graph = graph

    def graphs(self, size: tuple[int, int]) -> Mapping[str, Path]:
        return {"network": self.graph}

    def assemble(self, engines: Mapping[str, Engine], name: str, size: tuple[int, int]) -> Opened:
        return Opened(name, OneEngine(engines["network"]))


class Meanwhile(HeaderCompiler):
    """Another process does something between the look for a plan and the first load."""

    def __init__(self, does: Callable[[Path], object] = Path.exists) -> None:
        self._does, self.opens = does, 0

    def open(self, plan: Path) -> HeaderEngine:
        self.opens += 1
        if self.opens == 1:
            self._does(plan)
        return super().open(plan)


@dataclass
class Place:
    """A plan that is there, and what is to go wrong."""

    cache: PlanCache
    graph: Path
    key: PlanKey
    faults: Path
    rungs: list[PlanRung] = field(default_factory=list)

    def build(self) -> None:
        """In place of what is there."""
        self.cache.remove(self.key)
        build(HeaderCompiler(), self.cache, self.key, self.graph, lambda what, done, of: None)

    def rung(self, compiler: HeaderCompiler | None = None) -> PlanRung:
        """Prepared."""
        compiler = compiler or HeaderCompiler()
        rung = PlanRung("header", lambda: compiler, OneGraph(self.graph), self.cache, "fp16", niceness=0)
        self.rungs.append(rung)
        prepare(rung)
        return rung


def prepare(rung: PlanRung) -> None:
    rung.prepare(SIZE, lambda what, done, of: None, lambda: False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    faults = tmp_path / "faults"
    faults.mkdir()
    monkeypatch.setenv("PLAN_FAULTS", str(faults))
    graph = tiny_panoptic(tmp_path, CARD + ENCODER)
    key = key_of(HeaderCompiler(), graph, "fp16", {"frame": [*SIZE]})
    place = Place(PlanCache(tmp_path / "cache"), graph, key, faults)
    place.cache.prepare()
    place.build()
    yield place
    for rung in place.rungs:
        rung.settled()


def test_a_plan_that_its_compiler_calls_broken_is_removed(place: Place) -> None:
    rung = place.rung()
    (place.faults / "open").write_text("broken")
    with pytest.raises(ModelError, match="not a plan"):
        rung.open()
    assert not place.cache.entry(place.key).exists()


def test_a_full_gpu_costs_no_plan(place: Place) -> None:
    rung = place.rung()
    (place.faults / "open").write_text("oom")
    with pytest.raises(DeviceError, match="out of memory"):
        rung.open()
    assert place.cache.find(place.key)


def test_nor_does_an_accelerator_that_is_gone(place: Place) -> None:
    rung = place.rung()
    (place.faults / "open").write_text("broken")  # for want of a device its compiler can't tell
    (place.faults / "target").write_text("none")
    with pytest.raises(ModelError, match="no accelerator"):
        rung.open()
    assert place.cache.find(place.key)


def test_a_plan_that_is_just_being_replaced_is_looked_up_again(place: Place) -> None:
    def replace(plan: Path) -> None:
        aside = plan.parent.with_name("aside")
        plan.parent.rename(aside)
        try:
            HeaderCompiler().open(plan)
        finally:
            aside.rename(plan.parent)

    compiler = Meanwhile(replace)
    place.rung(compiler).open().close()
    assert compiler.opens == 2


def test_the_plan_of_another_process_is_not_removed_for_the_broken_one_before(place: Place) -> None:
    def replace(plan: Path) -> None:
        place.build()
        built_on(place.cache, place.key, "2026-01-02")
        raise ModelError("not a plan")

    compiler = Meanwhile(replace)
    place.rung(compiler).open().close()
    assert compiler.opens == 2


def test_a_plan_that_is_gone_is_built_anew_and_that_is_no_failure_of_the_engine(place: Place) -> None:
    rung = place.rung(Meanwhile(lambda plan: shutil.rmtree(plan.parent)))
    with pytest.raises(DeviceError, match="was removed or is being replaced"):
        rung.open()
    prepare(rung)
    rung.open().close()


def test_only_service_forgives_the_processes_that_died(place: Place) -> None:
    entry = place.cache.entry(place.key)
    entry.with_name(f"{entry.name}.trial-1").write_text("")
    rung = place.rung()
    rung.open().close()
    rung.settled()
    assert place.cache.deaths(place.key) == 1
    rung.open().close()
    rung.settled(has_served=True)
    assert not [*entry.parent.glob("*.trial-*")]

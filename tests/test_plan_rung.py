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
from perception.engines.cache import CacheError, PlanCache, PlanKey
from perception.engines.plan import Precision
from perception.errors import DeviceError, ModelError
from perception.protocols import Engine
from perception.serving.plan_rung import PlanRung
from perception.serving.rungs import Opened, Refused
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

    def __init__(self, graph: Path, **parts: Precision) -> None:
        self.graph, self.parts = graph, parts or {"network": "fp16"}
        self.asked = self.forgotten = 0

    def graphs(self, size: tuple[int, int]) -> Mapping[str, Path]:
        self.asked += 1
        return dict.fromkeys(self.parts, self.graph)

    def precision(self, part: str) -> Precision:
        return self.parts[part]

    def forget(self, size: tuple[int, int]) -> None:
        self.forgotten += 1

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


def test_each_part_is_built_in_its_own_precision_and_kept_under_it(place: Place) -> None:
    recipe = OneGraph(place.graph, network="int8", propagator="fp16")
    rung = PlanRung("header", HeaderCompiler, recipe, place.cache, "int8", niceness=0)
    prepare(rung)
    built = {part: manifest.key["precision"] for part, (_, manifest) in rung.manifests(SIZE).items()}
    assert built == {"network": "int8", "propagator": "fp16"}
    compiled = [line.split()[-1] for line in (place.faults / "log").read_text().splitlines()]
    assert compiled[1:] == ["int8"]  # the propagator's plan of fp16 was there


def test_a_precision_that_is_not_there_costs_no_graph(place: Place) -> None:
    (place.faults / "check").write_text("this GPU has no fp8")
    recipe = OneGraph(place.graph)
    with pytest.raises(ModelError, match="this GPU has no fp8"):
        PlanRung("header", HeaderCompiler, recipe, place.cache, "fp8", niceness=0).needs_build(SIZE)
    assert not recipe.asked


def test_a_refused_plan_is_neither_built_nor_loaded_until_other_terms_or_a_new_build(place: Place) -> None:
    rung = place.rung()
    rung.refuse(SIZE, "network", "loses 2 points", "at most 1")
    for asks in (lambda: rung.needs_build(SIZE), lambda: prepare(rung), place.rung):
        with pytest.raises(Refused, match="loses 2 points; perception build with --again"):
            asks()
    rung.reconsider(SIZE, "at most 1")
    with pytest.raises(Refused):
        prepare(rung)
    rung.reconsider(SIZE, "at most 3")
    prepare(rung)
    rung.refuse(SIZE, "network", "loses 2 points", "at most 1")
    rung.forget(SIZE)
    prepare(rung)
    rung.open().close()


def test_a_plan_in_a_folder_that_others_may_write_to_is_not_loaded(place: Place) -> None:
    rung = place.rung()
    place.cache.root.chmod(0o755)
    place.cache.entry(place.key).parent.chmod(0o777)
    for asks in (lambda: rung.needs_build(SIZE), lambda: prepare(rung), rung.open):
        with pytest.raises(CacheError, match="can be changed by other users"):
            asks()


def test_graphs_are_asked_for_again_before_a_build(place: Place) -> None:
    rung = place.rung()
    recipe = rung.recipe
    assert isinstance(recipe, OneGraph)
    asked = recipe.asked
    prepare(rung)  # a user may have emptied the cache since
    assert recipe.asked == asked + 1


def test_a_new_build_has_its_graphs_made_anew(place: Place) -> None:
    rung = place.rung()
    rung.forget(SIZE)
    assert isinstance(rung.recipe, OneGraph)
    assert rung.recipe.forgotten == 1
    assert rung.needs_build(SIZE)

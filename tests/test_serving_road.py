"""The shipped network and its memory, served. No GPU was used: the plans of `tests.plan_fakes` run on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perception.build import build_model, build_pipeline, check_launch
from perception.build.serving import build_serving
from perception.config import Launch, ModelConfig, TrackingConfig
from perception.drives.rendered import RenderedDrive
from perception.engines.building import build, key_of
from perception.engines.cache import PlanCache
from perception.pipeline import Pipeline
from perception.serving.samples import KINDS
from perception.serving.serving import Serving
from perception.stopwatch import Stopwatch
from perception.types import Frame, Scene
from tests.plan_fakes import HeaderCompiler
from tests.test_node import until
from tests.test_plan_cache import faults  # noqa: F401  # a fixture
from tests.test_serving import PLAN, WAYS


class Road:
    """Rendered frames through a pipeline whose plans are built, and which the bottom serves."""

    def __init__(self, serving: Serving, pipeline: Pipeline) -> None:
        self.serving, self._pipeline = serving, pipeline
        drive = RenderedDrive(seed=3, width=320, height=180, truth=False, frames=90)
        self._frames = (Frame(f.index, f.index * 33_333_333, "front", f.image) for f in drive)

    def step(self) -> Scene:
        self.serving.settle()
        return self.serving.mark(self._pipeline.step(next(self._frames)))

    def wait(self) -> None:
        """For the plan, until it could serve."""
        until(lambda: self.serving.rows()[0].state in ("ready", "refused"), 120)
        assert self.serving.rows()[0].state == "ready", self.serving.rows()[0].reason

    def swap(self) -> Scene:
        """The first frame that the plan serves."""
        self.wait()
        scene = self.step()
        assert self.serving.engine == PLAN
        return scene


@pytest.fixture
def road(tmp_path: Path, faults: Path) -> Iterator[Road]:  # noqa: F811
    model = ModelConfig("road", "auto", 2, 2, cache=str(tmp_path / "plans"))
    checked = check_launch(Launch(version=1, model=model, tracking=TrackingConfig(kind="memory")))
    pipeline = build_pipeline(build_model(checked.files, checked.launch, Stopwatch()), checked, Stopwatch())
    serving = build_serving(checked, pipeline, WAYS)
    assert serving
    for graph in (checked.files.graph, checked.files.encoder, checked.files.propagator):
        assert graph
        key = key_of(HeaderCompiler(), graph, "fp16", {"frame": [320, 180]})
        build(HeaderCompiler(), PlanCache(tmp_path / "plans"), key, graph, lambda what, done, of: None)
    with closing(pipeline), closing(serving):
        serving.begin()
        yield Road(serving, pipeline)


def test_ids_and_carried_masks_outlive_a_swap_and_a_lost_device(road: Road, faults: Path) -> None:  # noqa: F811
    known = {t.track_id for t in [road.step() for _ in range(6)][-1].tracks}
    assert known
    road.wait()
    standing = road.serving.promoter.candidates[0].standing
    assert standing
    assert all(standing.usual_s(kind) for kind in KINDS)  # how long its first calls may take is known from the gate
    after = road.swap()
    assert known & {t.track_id for t in after.tracks} == known
    assert after.validity == "observed"
    road.step()
    (faults / "run").write_text("lost")
    lost = road.step()
    assert (lost.validity, road.serving.engine.partition("-")[0]) == ("degraded", "openvino")
    assert known & {t.track_id for t in lost.tracks} == known
    (report,) = [candidate.report for candidate in road.serving.promoter.candidates]
    assert report
    assert report.carried is not None
    assert report.carried > 0.95


def test_a_propagator_that_begins_to_carry_otherwise_is_left(road: Road, faults: Path) -> None:  # noqa: F811
    for _ in range(6):
        road.step()
    road.swap()
    (faults / "run").write_text("carry")
    (row, _) = road.serving.rows()
    for _ in range(60):
        road.step()
        until(lambda: not road.serving.promoter.checks.is_busy)
        (row, _) = road.serving.rows()
        if row.demotions:
            break
    assert row.demotions == 1
    assert "drifts from the reference: IoU of carried masks" in road.serving.fallen

"""The shipped network and its memory, served. No GPU was used: the plans of `tests.plan_fakes` run on the CPU."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from perception.build import build_model, build_pipeline, check_launch
from perception.build.serving import build_serving
from perception.config import Launch, ModelConfig, TrackingConfig
from perception.drives.rendered import RenderedDrive
from perception.engines.building import build, key_of
from perception.engines.cache import PlanCache
from perception.stopwatch import Stopwatch
from perception.types import Frame, Scene
from tests.plan_fakes import HeaderCompiler
from tests.test_node import until
from tests.test_plan_cache import faults  # noqa: F401  # a fixture
from tests.test_serving import PLAN, WAYS


def test_ids_and_carried_masks_outlive_a_swap_and_a_lost_device(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    model = ModelConfig("road", "auto", 2, 2, cache=str(tmp_path / "plans"))
    checked = check_launch(Launch(version=1, model=model, tracking=TrackingConfig(kind="memory")))
    pipeline = build_pipeline(build_model(checked.files, checked.launch, Stopwatch()), checked, Stopwatch())
    serving = build_serving(checked, pipeline, WAYS)
    assert serving
    for graph in (checked.files.graph, checked.files.encoder, checked.files.propagator):
        assert graph
        key = key_of(HeaderCompiler(), graph, "fp16", {"frame": [320, 180]})
        build(HeaderCompiler(), PlanCache(tmp_path / "plans"), key, graph, lambda what, done, of: None)
    drive = RenderedDrive(seed=3, width=320, height=180, truth=False, frames=60)
    frames = (Frame(f.index, f.index * 33_333_333, "front", f.image) for f in drive)

    def step() -> Scene:
        serving.settle()
        return serving.mark(pipeline.step(next(frames)))

    with closing(pipeline), closing(serving):
        serving.begin()
        known = {t.track_id for t in [step() for _ in range(6)][-1].tracks}
        assert known
        until(lambda: serving.rows()[0].state in ("ready", "refused"), 120)
        assert serving.rows()[0].state == "ready", serving.rows()[0].reason
        after = step()
        assert serving.engine == PLAN
        assert known & {t.track_id for t in after.tracks} == known
        assert after.validity == "observed"
        step()
        (faults / "run").write_text("lost")
        lost = step()
        assert (lost.validity, serving.engine.partition("-")[0]) == ("degraded", "openvino")
        assert known & {t.track_id for t in lost.tracks} == known
        (report,) = [candidate.report for candidate in serving.promoter.candidates]
        assert report
        assert report.carried is not None
        assert report.carried > 0.95

"""The script for GPU machines, run with a compiler that stands in: a plan is the graph, on a fake GPU.

No GPU is used, and the figures mean nothing; it is so that the script works where there is one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from perception.engines.plan import Precision, Progress, Target
from perception.errors import ModelError
from perception.protocols import Engine
from tests.gpu.measure import Settings, measure
from tests.gpu_fakes import FakeCuda, FakeLog, FakePlan, FakeTrt

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines import cuda
from perception.engines.tensorrt_engine import TensorRtEngine


class StandIn:
    name = "stand-in"

    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu = gpu

    def target(self) -> Target:
        return Target(self.name, "0", "no GPU", "0.0", "0")

    def compile(self, graph: Path, out: Path, precision: Precision, timing_cache: Path, progress: Progress) -> None:
        if precision == "bf16":
            raise ModelError("this one has no bf16")
        progress("copying", 1, 1)
        shutil.copy(graph, out)

    def open(self, plan: Path) -> Engine:
        return TensorRtEngine(FakeTrt, None, FakePlan(plan, self.gpu), FakeLog())


def test_it_measures_everything_and_goes_on_after_a_precision_that_fails(tmp_path, monkeypatch):
    gpu = FakeCuda()
    monkeypatch.setattr(cuda, "cudart", gpu)
    monkeypatch.setattr("tests.gpu.measure.WARM_UP", 0)
    settings = Settings(tmp_path, camera=(640, 352), precisions=("fp32", "bf16"), compared=2, timed=1, soaked=1)
    settings.say = lambda text: None
    figures = measure(settings, StandIn(gpu))
    assert figures["fp32"]["parity"] == {
        "labels_mean": 1.0, "labels_worst": 1.0, "things_mean": 1.0, "same_segments": 1.0, "frames": 2,
    }  # fmt: skip
    assert figures["fp32"]["replay"] == {"graphs": True, "why_not": "", "equal": True}
    assert figures["fp32"]["loss"]["points"] == 0
    assert {"with_propagator_ms", "kernels_ms", "outside_percent", "memory", "network_ms"} <= {*figures["fp32"]}
    assert figures["bf16"] == {"failed": "this one has no bf16"}
    assert json.loads((tmp_path / "measured.json").read_text()).keys() == figures.keys()
    text = (tmp_path / "measured.md").read_text()
    assert "| | fp32 | bf16 |" in text
    assert "failed: this one has no bf16" in text

"""The script for GPU machines, run with a compiler that stands in: a plan is the graph, on a fake GPU.

No GPU is used, and the figures mean nothing; it is so that the script works where there is one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perception.engines.plan import Precision, Progress, Target
from perception.errors import ModelError
from perception.models.card import find
from perception.models.lowering import lowered
from perception.protocols import Engine
from tests.gpu.measure import Settings, measure
from tests.gpu.steps import resident_mb
from tests.gpu_fakes import FakeCuda, FakeLog, FakePlan, FakeTrt

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines.tensorrt_engine import TensorRtEngine


class StandIn:
    name = "stand-in"

    flags = ()

    def __init__(self, gpu: FakeCuda | None = None) -> None:
        self.gpu = gpu  # None in the child that builds

    def target(self) -> Target:
        return Target(self.name, "0", "no GPU", "0.0", "0")

    def check(self, precision: Precision) -> None:
        if precision == "bf16":
            raise ModelError("this one has no bf16")

    def compile(self, graph: Path, out: Path, precision: Precision, timing_cache: Path, progress: Progress) -> None:
        progress("copying", 1, 1)
        shutil.copy(graph, out)

    def open(self, plan: Path) -> Engine:
        assert self.gpu
        return TensorRtEngine(FakeTrt, None, FakePlan(plan, self.gpu), FakeLog())


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setattr("tests.gpu.steps.WARM_UP", 0)
    few = Settings(tmp_path, camera=(640, 352), precisions=("fp32", "bf16"), compared=2, timed=1, soaked=1)
    few.say = lambda text: None
    return few


def on_disk(folder: Path) -> dict:
    return json.loads((folder / "measured.json").read_text())


def test_it_measures_everything_and_goes_on_after_a_precision_that_fails(tmp_path, settings, gpu):
    figures = measure(settings, StandIn(gpu))
    assert figures["fp32"]["parity"] == {
        "labels_mean": 1.0, "labels_worst": 1.0, "things_mean": 1.0, "same_segments": 1.0, "frames": 2,
    }  # fmt: skip
    assert figures["fp32"]["replay"] == {"graphs": True, "why_not": "", "equal": True}
    assert figures["fp32"]["loss"]["points"] == 0
    assert {"with_propagator_ms", "kernels_ms", "outside_percent", "memory", "network_ms"} <= {*figures["fp32"]}
    assert figures["bf16"] == {"build_s": "failed: this one has no bf16"}
    made = [json.loads(path.read_text())["key"] for path in tmp_path.rglob("manifest.json")]
    assert {key["precision"] for key in made} == {"fp32"}  # bf16 was not even lowered
    served = lowered(find("road-float"), settings.camera, "fp32", parts=("network", "propagator"))
    assert {path.read_bytes() for path in tmp_path.glob("cache/plans/*/plan")} == {*served.values()}
    assert on_disk(tmp_path).keys() == figures.keys()
    text = (tmp_path / "measured.md").read_text()
    assert "| | fp32 | bf16 |" in text
    assert "failed: this one has no bf16" in text


class WithoutMemory(StandIn):
    """Compiles no propagator, and fails in a way that nobody thought of."""

    def compile(self, graph: Path, out: Path, precision: Precision, timing_cache: Path, progress: Progress) -> None:
        if graph.name.startswith("propagator"):
            folder = out.parents[3]
            shutil.copy(folder / "measured.json", folder / "before.json")
            raise ZeroDivisionError("none\nat all")
        super().compile(graph, out, precision, timing_cache, progress)


def test_a_step_that_fails_costs_no_other_and_all_before_is_on_disk(tmp_path, settings, gpu, monkeypatch):
    def lost(*_arguments):
        raise ModelError("no labels")

    monkeypatch.setattr("tests.gpu.measure.lost", lost)
    settings.precisions = ("fp32",)
    figures = measure(settings, WithoutMemory(gpu))["fp32"]
    before = json.loads((tmp_path / "before.json").read_text())["fp32"]
    assert {"build_s", "parity", "replay", "network_ms", "kernels_ms", "loss"} <= {*before}
    assert figures["loss"] == "failed: no labels"
    assert figures["with_propagator_ms"].startswith("failed: the build's process ended with exit code 1")
    assert figures["with_propagator_ms"].endswith("ZeroDivisionError: none at all")
    assert figures["memory"]["frames"] == 1
    assert on_disk(tmp_path)["fp32"].keys() == figures.keys()
    assert "| failed: the build's process ended with exit code 1" in (tmp_path / "measured.md").read_text()


MEMORY = """
import numpy as np
from tests.gpu.{module} import resident_mb
before = resident_mb()
block = np.ones(100 << 20, np.uint8)
during = resident_mb()
del block
print(during - before > 90, resident_mb() - before < 50)
"""


def test_memory_is_that_of_now_not_its_peak():
    code = MEMORY.format(module=resident_mb.__module__.rpartition(".")[2])  # alone: what other tests free counts, too
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stderr

"""`pytest -m gpu`: TensorRT for real. Without a GPU each test skips with the reason; nothing is faked here."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception.engines.tensorrt import TensorRtCompiler
from perception.errors import ModelError
from tests.gpu.measure import Settings, measure

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def compiler() -> TensorRtCompiler:
    made = TensorRtCompiler()
    try:
        made.target()
    except ModelError as error:
        pytest.skip(f"no GPU to test on: {error}")
    return made


@pytest.fixture(scope="module")
def figures(compiler, tmp_path_factory) -> dict:
    """Built once for all tests: minutes."""
    settings = Settings(
        tmp_path_factory.mktemp("gpu"), precisions=("fp32", "fp16"), compared=12, timed=200, soaked=2000
    )
    return measure(settings, compiler)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("fp16", 0.99)])
def test_the_plan_says_what_onnx_runtime_says(figures, precision, least):
    assert figures[precision]["parity"]["labels_worst"] >= least


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_steps_are_replayed_as_graphs_and_always_say_the_same(figures, precision):
    assert figures[precision]["replay"] == {"graphs": True, "why_not": "", "equal": True}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_memory_does_not_grow(figures, precision):
    assert figures[precision]["memory"]["gpu_mb"] < 8
    assert figures[precision]["memory"]["process_mb"] < 30


def test_the_propagator_runs_beside_the_network(figures):
    assert figures["fp16"]["with_propagator_ms"]["p99"] < 100


def test_a_plan_that_was_cut_is_refused(compiler, tmp_path: Path):
    (tmp_path / "plan").write_bytes(b"not a plan" * 100)
    with pytest.raises(ModelError, match="can't load it"):
        compiler.open(tmp_path / "plan")


def test_a_graph_that_tensorrt_can_t_read_is_one_line(compiler, tmp_path: Path):
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="can't read it") as told:
        compiler.compile(
            tmp_path / "graph.onnx", tmp_path / "plan", "fp32", tmp_path / "timings", lambda _what, _done, _of: None
        )
    assert "\n" not in str(told.value)
    assert not (tmp_path / "plan").exists()

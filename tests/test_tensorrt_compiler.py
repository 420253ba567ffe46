"""What the compiler asks of TensorRT and makes of its answers; TensorRT and the GPU are fakes. No GPU is used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perception.engines.plan import Precision
from perception.engines.tensorrt import TensorRtCompiler
from perception.errors import DeviceError, ModelError
from tests.gpu_fakes import Error, FakeCuda
from tests.trt_fakes import FakeTensorRt

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines import cuda


class OneGpu(FakeCuda):
    def cudaGetDeviceCount(self):
        return Error.cudaSuccess, 1

    def cudaSetDevice(self, device: int):
        return (Error.cudaSuccess,)


@pytest.fixture(params=["8.6.1", "11.4.0"])
def trt(request, monkeypatch) -> FakeTensorRt:
    fake = FakeTensorRt(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(cuda, "cudart", OneGpu(room=1 << 20))
    return fake


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "road.onnx"
    path.write_bytes(b"graph of a road")
    return path


def compiled(graph: Path, precision: Precision = "fp16", progress=lambda _what, _done, _of: None) -> Path:
    plan = graph.with_suffix(".plan")
    TensorRtCompiler().compile(graph, plan, precision, graph.with_name("timings"), progress)
    return plan


def test_a_plan_is_written_and_the_timings_are_renewed(trt, graph):
    graph.with_name("timings").write_bytes(b"mine")
    assert compiled(graph).read_bytes() == b"graph of a road"
    assert graph.with_name("timings").read_bytes() == b"mine+"
    assert {p.name for p in graph.parent.iterdir()} == {"road.onnx", "road.plan", "timings"}
    assert ("room", 1 << 19) in trt.log  # half of what is free


def test_timings_of_another_gpu_are_not_used(trt, graph):
    graph.with_name("timings").write_bytes(b"foreign")
    compiled(graph)
    assert [what for name, what in trt.log if name == "timings"] == [b"foreign", b""]
    assert graph.with_name("timings").read_bytes() == b"+"


def test_types_are_those_of_the_graph(trt, graph):
    compiled(graph, "fp16")
    flags = [name for what, name in trt.log if what == "set"]
    (types,) = (what for name, what in trt.log if name == "types")
    if trt.__version__.startswith("8."):
        assert flags == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
        assert types == ["", "half", "float"]
    else:
        assert flags == []
        assert types == ["", "", ""]
    assert ("clear", "TF32") not in trt.log


def test_the_reference_is_exact(trt, graph):
    compiled(graph, "fp32")
    assert ("clear", "TF32") in trt.log


def test_progress_comes_to_its_end(trt, graph):
    told = []
    compiled(graph, progress=lambda *what: told.append(what))
    assert told[-1] == ("TensorRT is compiling", 1, 1)
    assert told[0] == (("TensorRT is compiling", 0, 1) if trt.__version__[0] == "8" else ("Building", 1, 2))


def test_fp8_needs_a_version_that_has_it(trt, graph):
    if trt.__version__.startswith("8."):
        with pytest.raises(ModelError, match=r"TensorRT 8\.6\.1 has no fp8; take fp16 or int8, or TensorRT 10"):
            compiled(graph, "fp8")
    else:
        compiled(graph, "fp8")


def test_what_the_parser_does_not_know_is_one_line(trt, graph):
    graph.write_bytes(b"a song")
    with pytest.raises(ModelError, match=r"^road.onnx: TensorRT .* can't read it: node 7: Unsupported operator Sing$"):
        compiled(graph)


@pytest.mark.parametrize(
    ("says", "kind"),
    [("Could not find any implementation for node Conv_3", ModelError), ("CUDA error 2: out of memory", DeviceError)],
)
def test_a_build_that_fails_says_why_and_leaves_nothing(trt, graph, says, kind):
    trt.fails = says
    with pytest.raises(kind, match=says):
        compiled(graph)
    assert {p.name for p in graph.parent.iterdir()} == {"road.onnx"}

"""What the compiler asks of TensorRT and makes of its answers; TensorRT and the GPU are fakes. No GPU is used."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from perception.engines import tensorrt, tensorrt_api
from perception.engines.building import key_of
from perception.engines.plan import Precision
from perception.engines.tensorrt import TensorRtCompiler
from perception.errors import DeviceError, ModelError
from tests.gpu_fakes import Error, FakeCuda
from tests.trt_fakes import FakeTensorRt

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines import cuda


class OneGpu(FakeCuda):
    capability = (9, 0)

    class cudaDeviceAttr:
        cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor = range(2)

    def cudaDeviceGetAttribute(self, attribute: int, device: int):
        return Error.cudaSuccess, self.capability[attribute]

    def cudaGetDeviceProperties(self, device: int):
        return Error.cudaSuccess, SimpleNamespace(name=b"NVIDIA H200\0")

    def cudaDriverGetVersion(self):
        return Error.cudaSuccess, 12080

    def cudaGetDeviceCount(self):
        return Error.cudaSuccess, 1

    def cudaSetDevice(self, device: int):
        return (Error.cudaSuccess,)


@pytest.fixture
def gpu(monkeypatch) -> OneGpu:
    fake = OneGpu(room=1 << 20)
    monkeypatch.setattr(cuda, "cudart", fake)
    return fake


@pytest.fixture(params=["8.6.1", "11.4.0"])
def trt(request, monkeypatch, gpu) -> FakeTensorRt:
    fake = FakeTensorRt(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
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
        assert types["convolution"] == ("half", {0: "half"})
        assert types["reduce"] == ("float", {0: "float"})
    else:
        assert flags == []
        assert not any(precision or outputs for precision, outputs in types.values())


@pytest.mark.parametrize("trt", ["8.6.1"], indirect=True)
def test_a_layer_of_reals_computes_in_them_whatever_it_makes(trt, graph):
    compiled(graph, "fp16")
    (types,) = (what for name, what in trt.log if name == "types")
    assert types["topk"] == ("float", {0: "float"})  # cell numbers beside: they keep their type
    assert types["greater"] == ("float", {})
    assert types["select"] == ("half", {0: "half"})
    assert types["resize"] == ("half", {0: "half"})
    assert types["fill"] == ("float", {0: "float"})
    assert types["gather"] == types["cast"] == ("", {})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_is_float32_in_the_graph_is_exact_in_all_precisions(trt, graph, precision):
    compiled(graph, precision)
    assert ("clear", "TF32") in trt.log


def test_what_is_set_and_the_code_that_sets_it_are_in_the_key_of_a_plan(trt, graph, monkeypatch, tmp_path):
    flags = TensorRtCompiler().flags
    assert {"workspace=4096MiB", "no-tf32"} <= {*flags}
    key = key_of(TensorRtCompiler(), graph, "fp16")
    assert key.flags == flags
    other = tmp_path / "tensorrt_api.py"
    other.write_bytes(Path(tensorrt_api.__file__).read_bytes() + b"# changed\n")
    monkeypatch.setattr(tensorrt, "_CODE", [tensorrt._CODE[0], other])
    assert key_of(TensorRtCompiler(), graph, "fp16").digest() != key.digest()


def test_progress_comes_to_its_end(trt, graph):
    told = []
    compiled(graph, progress=lambda *what: told.append(what))
    assert told[-1] == ("TensorRT is compiling", 1, 1)
    assert told[0] == (("TensorRT is compiling", 0, 0) if trt.__version__[0] == "8" else ("Building", 1, 2))


def test_fp8_needs_a_version_that_has_it(trt, graph):
    if trt.__version__.startswith("8."):
        for asked in (lambda: compiled(graph, "fp8"), lambda: TensorRtCompiler().check("fp8")):
            with pytest.raises(ModelError, match=r"TensorRT 8\.6\.1 has no fp8; take fp16 or int8, or TensorRT 10"):
                asked()
    else:
        TensorRtCompiler().check("fp8")
        compiled(graph, "fp8")


@pytest.mark.parametrize("trt", ["11.4.0"], indirect=True)
@pytest.mark.parametrize(
    ("precision", "capability", "least"),
    [("fp8", (8, 6), "8.9"), ("bf16", (7, 5), "8.0"), ("fp8", (8, 9), ""), ("bf16", (8, 0), ""), ("fp8", (12, 1), "")],
)
def test_a_precision_needs_a_gpu_that_computes_in_it(trt, gpu, precision, capability, least):
    gpu.capability = capability
    if not least:
        TensorRtCompiler().check(precision)
        return
    with pytest.raises(ModelError, match=rf"^this GPU has no {precision}: .* {least} is needed; take fp16$"):
        TensorRtCompiler().check(precision)


def test_what_the_parser_does_not_know_is_one_line(trt, graph):
    graph.write_bytes(b"a song")
    with pytest.raises(ModelError, match=r"^road.onnx: TensorRT .* can't read it: node 7: Unsupported operator Sing$"):
        compiled(graph)


# Whose fault it is: good plans are deleted for a ModelError

OF_THE_GPU = [
    "CUDA error 2: out of memory",
    "[defaultAllocator.cpp::deallocate::61] Error Code 1: Cuda Runtime (unspecified launch failure)",
    "Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
    "Error Code 1: Cuda Driver (invalid resource handle)",
    "Error Code 1: Cuda Runtime (In allocate at /_src/common/defaultAllocator.cpp:57)",
]
OF_THE_PLAN = [
    "Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.)",
    "Error Code 1: Cuda Driver (device kernel image is invalid)",
]


@pytest.mark.parametrize("says", OF_THE_GPU)
def test_a_plan_is_not_to_blame_for_the_gpu(trt, graph, says):
    trt.fails = f"{says}\nError Code 4: Internal Error (Engine deserialization failed.)"
    with pytest.raises(DeviceError, match=rf"^road.onnx: TensorRT .* can't load it: {re.escape(says)}$"):
        TensorRtCompiler().open(graph)


@pytest.mark.parametrize("says", OF_THE_PLAN)
def test_a_plan_that_tensorrt_or_cuda_refuses_is_to_blame(trt, graph, says):
    trt.fails = f"{says}\nEngine deserialization failed."
    with pytest.raises(ModelError, match="can't load it: Engine deserialization failed"):
        TensorRtCompiler().open(graph)


def test_a_plan_is_not_to_blame_where_cuda_fails_too(trt, graph, gpu):
    trt.fails, gpu.is_lost = "Engine deserialization failed.", True
    with pytest.raises(DeviceError, match="can't load it: cudaMemGetInfo failed: cudaErrorLaunchFailure"):
        TensorRtCompiler().open(graph)


def test_the_cause_is_found_behind_much_else(trt, graph):
    trt.fails = "\n".join([OF_THE_GPU[1], *["--- node ---"] * 40])
    with pytest.raises(DeviceError, match="launch failure"):
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

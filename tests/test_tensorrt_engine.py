"""The order of work of the TensorRT engine, on a GPU that is a fake of host memory. No GPU is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from perception.errors import DeviceError, ModelError
from tests.gpu_fakes import Error, FakeCuda, FakeLog, FakePlan, FakeTrt

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines import cuda
from perception.engines.device_tensor import DeviceTensor
from perception.engines.tensorrt import TensorRtCompiler
from perception.engines.tensorrt_engine import TensorRtEngine


def counter(folder: Path) -> Path:
    """next_sum = memory_sum + x, and twice that: a graph with a state."""
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("x", "memory_sum")}
    values |= {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in ("next_sum", "twice")}
    nodes = [
        helper.make_node("Add", ["memory_sum", "x"], ["next_sum"]),
        helper.make_node("Add", ["next_sum", "next_sum"], ["twice"]),
    ]
    ends = [values["x"], values["memory_sum"]], [values["next_sum"], values["twice"]]
    graph = helper.make_graph(nodes, "counter", *ends)
    path = folder / "counter.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def engine(folder: Path, gpu: FakeCuda, captures: bool = True) -> TensorRtEngine:
    return TensorRtEngine(FakeTrt, None, FakePlan(counter(folder), gpu, captures), FakeLog())


def ones(value: float = 1) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


STATE = {"memory_sum": "next_sum"}


def test_a_step_gives_the_outputs_and_is_replayed_from_the_second_on(tmp_path, gpu):
    e, out = engine(tmp_path, gpu), {}
    for i in range(1, 6):
        out = e({"x": ones(i), "memory_sum": ones(10)})
        assert out["twice"].tolist() == ones(20 + 2 * i).tolist()
    assert {*out} == {"next_sum", "twice"}
    assert gpu.launches == 4
    assert gpu.waits == 5  # one a step
    assert e.replays


def test_a_state_stays_on_the_gpu_and_goes_on(tmp_path, gpu):
    e = engine(tmp_path, gpu)
    e.keep_state(STATE)
    uploads = gpu.uploads
    sums = [e({"x": ones(i)})["twice"][0, 0] for i in range(1, 9)]
    assert sums == [2 * sum(range(1, i + 1)) for i in range(1, 9)]
    assert gpu.uploads - uploads == 8  # of x alone
    assert gpu.launches == 6  # after one step of each of the state's two places
    assert e.read_state()["memory_sum"].tolist() == ones(36).tolist()


def test_a_state_is_handed_on_at_a_swap(tmp_path, gpu):
    before, after = engine(tmp_path, gpu), engine(tmp_path, gpu)
    for e in (before, after):
        e.keep_state(STATE)
    for _ in range(5):
        before({"x": ones()})
    after({"x": ones(100)})
    after.load_state(before.read_state())
    assert after({"x": ones()})["twice"][0, 0] == before({"x": ones()})["twice"][0, 0] == 12


def test_a_fork_has_a_state_of_its_own(tmp_path, gpu):
    e = engine(tmp_path, gpu)
    e.keep_state(STATE)
    e({"x": ones(5)})
    other = e.fork()
    assert other({"x": ones()})["twice"][0, 0] == 2
    assert e({"x": ones()})["twice"][0, 0] == 12


def test_what_is_left_on_the_gpu_feeds_another_engine_without_the_host(tmp_path, gpu):
    first, second = engine(tmp_path, gpu), engine(tmp_path, gpu)
    first.leave(["twice"])
    out = {}
    for i in range(1, 5):
        out = first({"x": ones(i), "memory_sum": ones(0)})
        assert isinstance(out["twice"], DeviceTensor)
        uploads = gpu.uploads
        given = second({"x": out["twice"], "memory_sum": ones(1)})
        assert given["next_sum"].tolist() == ones(2 * i + 1).tolist()
        assert gpu.uploads - uploads == 1  # of memory_sum
    assert np.asarray(out["twice"]).tolist() == ones(8).tolist()


def test_leading_axes_of_one_come_and_go():
    tensor = DeviceTensor(0, (1, 4, 5), np.dtype(np.float32))
    assert tensor[0].shape == (4, 5)
    assert tensor[0][None].shape == (1, 4, 5)
    with pytest.raises(IndexError, match="only the leading axis of one"):
        tensor[0][0]


def test_a_plan_that_can_t_be_captured_runs_without_a_graph(tmp_path, gpu):
    e = engine(tmp_path, gpu, captures=False)
    for i in range(4):
        assert e({"x": ones(i), "memory_sum": ones(0)})["twice"][0, 0] == 2 * i
    assert not e.replays
    assert "TensorRT failed" in e.why_not_replayed
    assert gpu.launches == 0


@pytest.mark.parametrize("wrong", [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64), None])
def test_a_wrong_input_is_named(tmp_path, gpu, wrong):
    e = engine(tmp_path, gpu)
    with pytest.raises(ModelError, match=r"input x is .*; the plan takes float32"):
        e({"memory_sum": ones()} | ({} if wrong is None else {"x": wrong}))


def test_a_full_gpu_is_a_device_error_with_cudas_name(tmp_path, gpu):
    gpu.room = 50
    with pytest.raises(DeviceError, match=r"cudaMalloc failed: cudaErrorMemoryAllocation, the GPU's memory is full"):
        engine(tmp_path, gpu)


def test_closing_gives_all_memory_back(tmp_path, gpu):
    before = len(gpu.blocks)
    e = engine(tmp_path, gpu)
    e.keep_state(STATE)
    e({"x": ones()})
    e.close()
    del e
    assert len(gpu.blocks) == before


def test_an_engine_that_can_t_be_opened_leaves_nothing(tmp_path, gpu):
    gpu.room = 50
    for _ in range(3):
        with pytest.raises(DeviceError):
            engine(tmp_path, gpu)
    assert not gpu.open
    assert not gpu.blocks


def test_streams_graphs_and_events_go_with_who_has_them_once(tmp_path, gpu):
    e = engine(tmp_path, gpu)
    for _ in range(3):
        e({"x": ones(), "memory_sum": ones()})
    e.kernels_ms(2)
    assert len(gpu.open) == 2  # the stream and one graph: what was measured with is closed
    del e
    assert not gpu.open
    event, stream = cuda.Event(), cuda.Stream()
    for _ in range(2):
        event.close()
        stream.close()
    assert not gpu.open


def test_memory_is_zeroed_before_anything_is_written_there(tmp_path, gpu):
    e = engine(tmp_path, gpu)
    e.keep_state(STATE)
    e.load_state({"memory_sum": ones(5)})
    for work in gpu.begun:  # the default stream comes to it late
        work()
    assert e({"x": ones()})["twice"].tolist() == ones(12).tolist()
    assert not gpu.begun


def test_arrays_that_a_caller_holds_outlive_the_engine(tmp_path, gpu):
    e = engine(tmp_path, gpu)
    out = e({"x": ones(3), "memory_sum": ones(0)})["twice"]
    e.close()
    del e
    assert out.tolist() == ones(6).tolist()


def test_without_a_gpu_the_target_says_what_to_do():
    with pytest.raises(ModelError) as told:
        TensorRtCompiler().target()
    assert "install" in str(told.value)
    assert "\n" not in str(told.value)


def test_without_a_gpu_cuda_says_its_own_name_of_the_error():
    try:
        if cuda.cudart.cudaGetDeviceCount()[0] == cuda.cudart.cudaError_t.cudaSuccess:
            pytest.skip("there is a GPU")
    except RuntimeError:
        pytest.skip("cuda-bindings finds no runtime library")
    with pytest.raises(ModelError, match="no NVIDIA GPU can be used: cudaGetDeviceCount failed: cudaError"):
        cuda.select(0)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (Error.cudaErrorNoDevice, ModelError, "no NVIDIA GPU can be used: .*: cudaErrorNoDevice, no NVIDIA"),
        (Error.cudaErrorInsufficientDriver, ModelError, "or on a CUDA 12 driver: pip install 'cuda-bindings<13'"),
        (Error.cudaErrorSystemNotReady, DeviceError, "^cudaGetDeviceCount failed: cudaErrorSystemNotReady"),
    ],
)
def test_what_may_pass_is_no_fault_of_a_plan(gpu, error, kind, says):
    def cudaGetDeviceCount():
        return error, None

    gpu.cudaGetDeviceCount = cudaGetDeviceCount
    with pytest.raises(kind, match=says):
        cuda.select(0)


def test_bindings_that_can_t_load_the_driver_say_so_in_one_line(gpu):
    def without_driver():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    gpu.cudaGetDeviceCount = without_driver
    with pytest.raises(ModelError, match=r"^no NVIDIA GPU can be used: Failed to dlopen libcuda.so.1, .* install"):
        cuda.select(0)


LEFT = """
from perception.engines import cuda
from tests.gpu_fakes import FakeCuda
gpu = cuda.cudart = FakeCuda()
gpu.cudaFree = gpu.cudaFreeHost = lambda address: print("freed", flush=True)
left = cuda.Buffer(8), cuda.Pinned((2,), "f4")
print("left", flush=True)
"""


def test_nothing_is_freed_at_exit_where_a_hung_gpu_would_be_waited_for():
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "left\n"


def test_the_driver_s_version_is_read_from_its_module(tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 20:25:03 UTC 2025\n")
    assert cuda.driver_version(file) == "570.86.15"
